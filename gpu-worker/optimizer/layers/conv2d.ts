/**
 * Two-dimensional convolutions as dense layers shared over positions: at each output position the kernel, flattened to
 * [kh·kw·C/G, c/G] per group, meets one patch of the input. Activations NHWC, kernels HWIO.
 */
import { convolutionGeometry } from '../../../shared/convolution.ts';
import type { Conv2dLayer } from '../../../shared/layer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { padWindows, windowViews } from '../../tensor/windows.ts';
import type { ParameterChanges } from './parameter-changes.ts';
import type { PerSampleGradients } from './per-sample-gradients.ts';

/**
 * Patches of the input, [B, P, kh·kw·C], in the order of a kernel's first three axes.
 *
 * @param input [B, H, W, C]
 */
export function patches(engine: Engine, layer: Conv2dLayer, input: Tensor): Tensor {
  const { rows, columns } = convolutionGeometry(layer);
  const [batch = 1, , , channels = 1] = input.shape;
  const views = windowViews(engine, { rows, columns }, padWindows(engine, { rows, columns }, input));
  return engine.reshape(engine.concat(views, 3), [batch, rows.outputs * columns.outputs, views.length * channels]);
}

/** One block per group. */
export function convolutionBlocks(
  engine: Engine,
  layer: Conv2dLayer,
  input: Tensor,
  outputGradient: Tensor,
): PerSampleGradients[] {
  const { appendOnes, reshape, slice } = engine;
  const channels = layer.inputs / layer.groups;
  const outputs = layer.outputs / layer.groups;
  return Array.from({ length: layer.groups }, (_, group): PerSampleGradients => {
    const groupInput = slice(input, 3, group * channels, channels);
    const groupGradient = slice(outputGradient, outputGradient.shape.length - 1, group * outputs, outputs);
    const [rows = 1, height = 1, width = 1] = groupGradient.shape;
    const patched = patches(engine, layer, groupInput);
    return {
      kind: 'positions',
      input: layer.bias ? appendOnes(patched) : patched,
      output: reshape(groupGradient, [rows, height * width, outputs]),
    };
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
