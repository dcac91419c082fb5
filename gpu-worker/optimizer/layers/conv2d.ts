/**
 * Two-dimensional convolutions as dense layers shared over positions: at each output position the kernel, flattened to
 * [kh·kw·C/G, c/G] per group, meets one patch of the input. Activations NHWC, kernels HWIO.
 */
import { convolutionGeometry } from '../../../shared/convolution.ts';
import type { Conv2dLayer } from '../../../shared/layer.ts';
import { elementCount } from '../../../shared/shape.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { patches } from '../../tensor/windows.ts';
import { lowerImages, suitsLowering } from './compact-lowering.ts';
import type { ParameterChanges } from './parameter-changes.ts';
import { isSmallerExplicit, type PerSampleGradients } from './per-sample-gradients.ts';

/** One block per group. */
export function convolutionBlocks(
  engine: Engine,
  layer: Conv2dLayer,
  input: Tensor,
  outputGradient: Tensor,
): PerSampleGradients[] {
  const { appendOnes, reshape, slice } = engine;
  const window = convolutionGeometry(layer);
  const channels = layer.inputs / layer.groups;
  const outputs = layer.outputs / layer.groups;
  const positions = window.rows.outputs * window.columns.outputs;
  const [batch = 1] = input.shape;
  const rows = elementCount(outputGradient.shape) / (positions * layer.outputs);
  const gradients = reshape(outputGradient, [rows, positions, layer.outputs]);
  const ofGroup = (tensor: Tensor, group: number, width: number): Tensor =>
    layer.groups === 1 ? tensor : slice(tensor, tensor.shape.length - 1, group * width, width);
  const inputs = layer.kernel[0] * layer.kernel[1] * channels + (layer.bias ? 1 : 0);
  const columns = (rows / batch) * outputs;
  const isLowered =
    suitsLowering(window, channels, columns) && isSmallerExplicit({ batch, rows, positions, inputs, outputs });
  return Array.from({ length: layer.groups }, (_, group): PerSampleGradients => {
    const images = ofGroup(input, group, channels);
    const output = ofGroup(gradients, group, outputs);
    if (isLowered) {
      const lowered = lowerImages(engine, window, images, columns);
      return { kind: 'convolution', images, lowered, output, bias: layer.bias };
    }
    const patched = patches(engine, window, images);
    return { kind: 'positions', input: layer.bias ? appendOnes(patched) : patched, output };
  });
}

/** weight [kh, kw, C/G, c] and bias [c] from the blocks of the groups. */
export function convolutionChanges(engine: Engine, layer: Conv2dLayer, blocks: readonly Tensor[]): ParameterChanges {
  const { concat, reshape, slice } = engine;
  const [kernelHeight, kernelWidth] = layer.kernel;
  const inputs = kernelHeight * kernelWidth * (layer.inputs / layer.groups);
  const all = concat(blocks, 1);
  return {
    weight: reshape(slice(all, 0, 0, inputs), [kernelHeight, kernelWidth, layer.inputs / layer.groups, layer.outputs]),
    ...(layer.bias ? { bias: reshape(slice(all, 0, inputs, 1), [layer.outputs]) } : {}),
  };
}
