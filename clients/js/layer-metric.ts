/** The inverse of a layer's control metric, as it comes with a policy, and what it makes of a gradient. */
import { at } from '../../shared/at.ts';
import type { Layer } from '../../shared/layer.ts';
import { PARAMETER_NAMES } from '../../shared/parameter-names.ts';
import type { TensorValues } from '../../shared/safetensors.ts';
import type { ParameterChanges } from './parameter-changes.ts';

/** A⁻¹ and Γ⁻¹ of one block of parameters, row-major. */
export interface BlockInverses {
  /** A⁻¹, [n, n]; the bias is the last input. */
  readonly input: TensorValues;
  /** Γ⁻¹, [c, c]. */
  readonly outputGradient: TensorValues;
}

export type LayerMetric =
  | { readonly kind: 'identity' }
  /** One block, or one per group of a convolution: [kernel rows · columns · C/groups (+ 1), c/groups]. */
  | { readonly kind: 'kronecker'; readonly version: number; readonly blocks: readonly BlockInverses[] }
  /** P⁻¹ elementwise, in the parameters' own shapes. */
  | { readonly kind: 'diagonal'; readonly inverse: ParameterChanges };

/** P⁻¹ times a gradient in the layer's parameters. @throws RangeError if the gradient lacks a parameter */
export function precondition(layer: Layer, metric: LayerMetric, gradient: ParameterChanges): ParameterChanges {
  switch (metric.kind) {
    case 'identity':
      return gradient;
    case 'diagonal':
      return Object.fromEntries(
        PARAMETER_NAMES.flatMap((name) => {
          const inverse = metric.inverse[name];
          if (inverse === undefined) return [];
          const values = parameterOf(layer, gradient, name);
          return [[name, values.map((value, index) => value * (inverse[index] ?? Number.NaN))]];
        }),
      );
    case 'kronecker':
      return throughFactors(layer, metric.blocks, gradient);
  }
}

/** A⁻¹ [W; b] Γ⁻¹, block by block. */
function throughFactors(layer: Layer, blocks: readonly BlockInverses[], gradient: ParameterChanges): ParameterChanges {
  const weight = parameterOf(layer, gradient, 'weight');
  const hasBias = 'bias' in layer && layer.bias;
  const all = hasBias ? joined(weight, parameterOf(layer, gradient, 'bias')) : weight;
  const result = all.slice();
  const width = Math.sqrt(at(blocks, 0).outputGradient.length);
  const outputs = width * blocks.length;
  const rows = all.length / outputs;
  for (const [group, { input, outputGradient }] of blocks.entries()) {
    const block = columnsOf(all, outputs, group * width, width);
    const product = multiply(multiply(input, block, rows, width), outputGradient, width, width);
    for (let row = 0; row < rows; row++) {
      result.set(product.subarray(row * width, (row + 1) * width), row * outputs + group * width);
    }
  }
  return hasBias
    ? { weight: result.subarray(0, weight.length), bias: result.subarray(weight.length) }
    : { weight: result };
}

function parameterOf(layer: Layer, gradient: ParameterChanges, name: keyof ParameterChanges): TensorValues {
  const values = gradient[name];
  if (values === undefined) throw new RangeError(`the gradient of layer ${layer.name} lacks its ${name}`);
  return values;
}

function joined(left: TensorValues, right: TensorValues): TensorValues {
  const all = new (left instanceof Float64Array ? Float64Array : Float32Array)(left.length + right.length);
  all.set(left);
  all.set(right, left.length);
  return all;
}

/** Columns [begin, begin + width) of a matrix with so many columns. */
function columnsOf(matrix: TensorValues, columns: number, begin: number, width: number): TensorValues {
  if (width === columns) return matrix;
  return matrix.filter((_, index) => index % columns >= begin && index % columns < begin + width);
}

/** left [m, k] · right [k, n]. */
function multiply(left: TensorValues, right: TensorValues, k: number, n: number): TensorValues {
  const m = left.length / k;
  const product = new (right instanceof Float64Array ? Float64Array : Float32Array)(m * n);
  for (let i = 0; i < m; i++) {
    for (let l = 0; l < k; l++) {
      const factor = left[i * k + l] ?? Number.NaN;
      for (let j = 0; j < n; j++) {
        const index = i * n + j;
        product[index] = (product[index] ?? 0) + factor * (right[l * n + j] ?? Number.NaN);
      }
    }
  }
  return product;
}
