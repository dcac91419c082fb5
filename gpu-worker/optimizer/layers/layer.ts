/**
 * Layers: from what a client's forward and backward pass yield to per-sample gradients of parameter blocks, and from changes of
 * the blocks back to changes of the parameters. One place chooses among the kinds.
 */
import type { Layer } from '../../../shared/layer.ts';
import type { ParameterName } from '../../../shared/parameter-names.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { convolutionBlocks, convolutionChanges } from './conv2d.ts';
import type { LayerParameters, ParameterChanges } from './parameter-changes.ts';
import type { PerSampleGradients } from './per-sample-gradients.ts';

/** What the client sends for one layer, with one gradient per row: R = B·r rows, r per sample. */
export interface LayerRows {
  /** Input activations, [B, …]; null for a generic layer. */
  readonly input: Tensor | null;
  /** Gradients in the pre-activations, [R, …]; for a generic layer in the parameters, [R, m]. */
  readonly gradient: Tensor;
}

/** The per-sample gradients of every parameter block of a layer. */
export function parameterBlocks(engine: Engine, layer: Layer, { input, gradient }: LayerRows): PerSampleGradients[] {
  const { appendOnes, multiply, reshape, concat, sum } = engine;
  if (layer.kind === 'generic') {
    const [rows = 1, parameters = 1] = gradient.shape;
    return [{ kind: 'explicit', gradients: reshape(gradient, [rows, parameters, 1]) }];
  }
  if (input === null) throw new TypeError(`layer ${layer.name} has no input`);
  switch (layer.kind) {
    case 'dense': {
      const a = layer.bias ? appendOnes(input) : input;
      return [{ kind: layer.sequence ? 'positions' : 'outer', input: a, output: gradient }];
    }
    case 'conv2d':
      return convolutionBlocks(engine, layer, input, gradient);
    case 'embedding':
      return [{ kind: 'positions', input: oneHot(engine, input, layer.inputs), output: gradient }];
    case 'scale-shift': {
      // A row's gradient is Σ_p [x_p ∘ g_p; g_p], output by output a matrix [c, 2], or without shift [c, 1].
      const [rows = 1] = gradient.shape;
      const [batch = 1] = input.shape;
      const features = layer.features;
      const positions = layer.sequence ? (input.shape[1] ?? 1) : 1;
      const bySample = reshape(gradient, [batch, rows / batch, positions, features]);
      const scale = sum(multiply(bySample, reshape(input, [batch, 1, positions, features])), 2);
      const asRows = (tensor: Tensor): Tensor => reshape(tensor, [rows, features, 1]);
      const gradients = layer.shift ? concat([asRows(scale), asRows(sum(bySample, 2))], 2) : asRows(scale);
      return [{ kind: 'explicit', gradients }];
    }
  }
}

/** [B, S] of whole numbers → [B, S, depth] of zeros and ones. */
function oneHot(engine: Engine, indices: Tensor, depth: number): Tensor {
  const values = engine.read(indices);
  const result = new Float32Array(values.length * depth);
  values.forEach((index, position) => (result[position * depth + index] = 1));
  return engine.tensor(result, [...indices.shape, depth]);
}

/** The changes of the parameters from the changes of their blocks. */
export function parameterChanges(engine: Engine, layer: Layer, blocks: readonly Tensor[]): ParameterChanges {
  const { reshape, slice } = engine;
  const [block] = blocks;
  if (block === undefined) throw new TypeError(`layer ${layer.name} has no parameter block`);
  switch (layer.kind) {
    case 'dense':
      if (!layer.bias) return { weight: block };
      return {
        weight: slice(block, 0, 0, layer.inputs),
        bias: reshape(slice(block, 0, layer.inputs, 1), [layer.outputs]),
      };
    case 'conv2d':
      return convolutionChanges(engine, layer, blocks);
    case 'embedding':
      return { weight: block };
    case 'scale-shift': {
      const vector = (row: number): Tensor => reshape(slice(block, 0, row, 1), [layer.features]);
      return layer.shift ? { scale: vector(0), shift: vector(1) } : { scale: vector(0) };
    }
    case 'generic':
      return { parameters: reshape(block, [layer.parameters]) };
  }
}

/** The parameters as matrices of their blocks, [n, c] each; zeros for a parameter that is left out. */
export function parameterMatrices(engine: Engine, layer: Layer, parameters: LayerParameters): Tensor[] {
  const { concat, reshape, slice, tensor } = engine;
  const matrix = (name: ParameterName, rows: number, columns: number): Tensor => {
    const parameter = parameters[name];
    return parameter === undefined
      ? tensor(new Float32Array(rows * columns), [rows, columns])
      : reshape(parameter, [rows, columns]);
  };
  switch (layer.kind) {
    case 'dense': {
      const weight = matrix('weight', layer.inputs, layer.outputs);
      return layer.bias ? [concat([weight, matrix('bias', 1, layer.outputs)], 0)] : [weight];
    }
    case 'conv2d': {
      const [kernelHeight, kernelWidth] = layer.kernel;
      const weight = matrix('weight', (kernelHeight * kernelWidth * layer.inputs) / layer.groups, layer.outputs);
      const all = layer.bias ? concat([weight, matrix('bias', 1, layer.outputs)], 0) : weight;
      const width = layer.outputs / layer.groups;
      return Array.from({ length: layer.groups }, (_, group) => slice(all, 1, group * width, width));
    }
    case 'embedding':
      return [matrix('weight', layer.inputs, layer.outputs)];
    case 'scale-shift': {
      const scale = matrix('scale', 1, layer.features);
      return layer.shift ? [concat([scale, matrix('shift', 1, layer.features)], 0)] : [scale];
    }
    case 'generic':
      return [matrix('parameters', 1, layer.parameters)];
  }
}
