/** A layer's policy from a reply, in whichever encoding it came. */
import { layerSizes } from '../../shared/cost.ts';
import type { Layer } from '../../shared/layer.ts';
import { PARAMETER_NAMES, type ParameterName } from '../../shared/parameter-names.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { unpackAllSymmetric } from '../../shared/triangle.ts';
import { readCoefficients } from './coefficients.ts';
import type { BlockInverses, LayerMetric } from './layer-metric.ts';
import type { ParameterChanges } from './parameter-changes.ts';
import { LayerPolicy, type LayerSamples } from './policy.ts';
import type { ReplyTensors } from './reply-tensors.ts';

/** Inverse factors that a client keeps until a reply has newer ones. */
export type HeldInverses = Extract<LayerMetric, { kind: 'kronecker' }>;

/**
 * @param held the layer's inverses as they are after this reply; undefined for a layer without
 * @throws RangeError if the reply lacks something
 */
export function readPolicy(
  reply: ReplyTensors,
  layer: Layer,
  held: HeldInverses | undefined,
  samples: LayerSamples | null,
): LayerPolicy {
  const { name } = layer;
  const parts = { coefficients: readCoefficients(reply, name), fixedChange: readChanges(reply, name) };
  if (reply.has(TENSOR.policyInput(name))) {
    const input = reply.values(TENSOR.policyInput(name));
    const outputGradient = reply.values(TENSOR.policyOutputGradient(name));
    return new LayerPolicy(layer, { kind: 'sample-factors', input, outputGradient, ...parts }, samples);
  }
  const learningRate = reply.number(TENSOR.learningRate(name));
  const inverse = parametersNamed(reply, (parameter) => TENSOR.inverseDiagonal(name, parameter));
  const metric: LayerMetric =
    Object.keys(inverse).length > 0 ? { kind: 'diagonal', inverse } : (held ?? { kind: 'identity' });
  return new LayerPolicy(layer, { kind: 'inverse-factors', learningRate, metric, ...parts }, samples);
}

/** The changes of a layer's parameters that a reply has, by name. */
export function readChanges(reply: ReplyTensors, layer: string): ParameterChanges {
  return parametersNamed(reply, (parameter) => TENSOR.update(layer, parameter));
}

/** A layer's inverses, if the reply has any. */
export function readInverses(reply: ReplyTensors, layer: Layer, version: number): HeldInverses | null {
  const { name } = layer;
  if (!reply.has(TENSOR.inputInverse(name))) return null;
  const { inputs, outputs } = layerSizes(layer);
  const input = unpackAllSymmetric(reply.values(TENSOR.inputInverse(name)), inputs);
  const outputGradient = unpackAllSymmetric(reply.values(TENSOR.outputInverse(name)), outputs);
  const blocks = input.map((each, group): BlockInverses => {
    const other = outputGradient[group];
    if (other === undefined) throw new RangeError(`it lacks a part of ${TENSOR.outputInverse(name)}`);
    return { input: each, outputGradient: other };
  });
  return { kind: 'kronecker', version, blocks };
}

function parametersNamed(reply: ReplyTensors, name: (parameter: ParameterName) => string): ParameterChanges {
  const parameters = PARAMETER_NAMES.filter((parameter) => reply.has(name(parameter)));
  return Object.fromEntries(parameters.map((parameter) => [parameter, reply.values(name(parameter))]));
}
