/** Parameters of a model's stages: their shapes, how they begin, and how a step changes them. */
import { elementCount } from '../../shared/shape.ts';
import type { Initialization } from '../../shared/model-layer.ts';
import type { Stage, StageLayer } from '../../shared/model-stages.ts';
import { gaussian, type Random } from '../../shared/random.ts';
import { PARAMETER_NAMES, type ParameterName } from '../../shared/parameter-names.ts';
import type { ParameterChanges } from '../optimizer/layers/parameter-changes.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import type { Program } from './program.ts';
import { weightStream } from './streams.ts';

/** Parameters of one stage by name. */
export type StageParameters = Readonly<Partial<Record<ParameterName, Tensor>>>;

/** u_t of every stage. */
export type Weights = readonly StageParameters[];

export function parameter(layer: StageLayer, parameters: StageParameters, name: ParameterName): Tensor {
  const tensor = parameters[name];
  if (tensor === undefined) throw new TypeError(`layer ${layer.name} has no ${name}`);
  return tensor;
}

/** The weights at the start: each stage draws from a stream of its own, so that adding one leaves the others as they are. */
export function initialWeights(engine: Engine, program: Program, seed: number): Weights {
  return program.stages.map((stage, t) => initialParameters(engine, stage, weightStream(seed, t)));
}

function initialParameters(engine: Engine, { layer, initialization }: Stage, random: Random): StageParameters {
  const constant = (value: number, length: number): Tensor =>
    engine.tensor(new Float32Array(length).fill(value), [length]);
  if (layer.kind === 'scale-shift') return { scale: constant(1, layer.features), shift: constant(0, layer.features) };
  const { shape, fanIn, fanOut } = kernelOf(layer);
  const draw = drawer(initialization, fanIn, fanOut, random);
  const size = elementCount(shape);
  const weight = engine.tensor(Float64Array.from({ length: size }, draw), shape);
  if (!layer.bias) return { weight };
  const { outputs } = layer;
  const drawsBias = initialization === 'fan-in-uniform';
  const bias = drawsBias
    ? engine.tensor(Float64Array.from({ length: outputs }, draw), [outputs])
    : constant(0, outputs);
  return { weight, bias };
}

interface Kernel {
  readonly shape: readonly number[];
  /** Inputs that meet in one output. */
  readonly fanIn: number;
  /** Outputs that one input reaches, at stride 1. */
  readonly fanOut: number;
}

function kernelOf(layer: Exclude<StageLayer, { kind: 'scale-shift' }>): Kernel {
  const { inputs, outputs } = layer;
  if (layer.kind === 'dense') return { shape: [inputs, outputs], fanIn: inputs, fanOut: outputs };
  const { kernel, groups } = layer;
  const field = kernel[0] * kernel[1];
  const shape = [...kernel, inputs / groups, outputs];
  return { shape, fanIn: (field * inputs) / groups, fanOut: (field * outputs) / groups };
}

function drawer(initialization: Initialization, fanIn: number, fanOut: number, random: Random): () => number {
  switch (initialization) {
    case 'he-normal':
      return () => gaussian(random) * Math.sqrt(2 / fanIn);
    case 'glorot-uniform':
      return () => (2 * random() - 1) * Math.sqrt(6 / (fanIn + fanOut));
    case 'fan-in-uniform':
      return () => (2 * random() - 1) / Math.sqrt(fanIn);
  }
}

/** u + δu. */
export function changedParameters(
  engine: Engine,
  parameters: StageParameters,
  changes: ParameterChanges,
): StageParameters {
  const changed: Partial<Record<ParameterName, Tensor>> = {};
  for (const name of PARAMETER_NAMES) {
    const value = parameters[name];
    const change = changes[name];
    if (value !== undefined) changed[name] = change === undefined ? value : engine.add(value, change);
  }
  return changed;
}

/** slow + share · (fast − slow). */
export function interpolatedWeights(engine: Engine, slow: Weights, fast: Weights, share: number): Weights {
  const { multiply, subtract } = engine;
  return slow.map((parameters, t) => {
    const changes: Partial<Record<ParameterName, Tensor>> = {};
    for (const name of PARAMETER_NAMES) {
      const from = parameters[name];
      const to = fast[t]?.[name];
      if (from !== undefined && to !== undefined) changes[name] = multiply(subtract(to, from), share);
    }
    return changedParameters(engine, parameters, changes);
  });
}
