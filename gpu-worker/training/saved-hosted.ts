/** A hosted session's state as named tensors, and back, bit for bit; the weights under the names that GET weights gives them. */
import type { SavedState } from '../../shared/checkpoint.ts';
import { HOSTED_TENSOR } from '../../shared/hosted-tensors.ts';
import { PARAMETER_NAMES } from '../../shared/parameter-names.ts';
import type { StageLayer } from '../../shared/model-stages.ts';
import type { NamedTensor } from '../../shared/safetensors.ts';
import { parameterShapes } from '../../shared/step.ts';
import type { ChannelStatistics } from '../model/normalization.ts';
import type { StageParameters, Weights } from '../model/parameters.ts';
import type { Program } from '../model/program.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import type { HostedState } from './hosted-step.ts';
import { restoreOptimizer, saveOptimizer } from './saved-optimizer.ts';
import type { SavedTensors } from './saved-tensors.ts';
import type { SavedTraining } from './trainer.ts';

/** Copies of the weights that some optimizers hold. */
const WEIGHT_COPY = { slow: 'slow.', previous: 'previous.' } as const;
type Prefix = '' | (typeof WEIGHT_COPY)[keyof typeof WEIGHT_COPY];

export function saveHosted(
  engine: Engine,
  program: Program,
  { optimizer, weights, statistics, slowWeights, previousWeights }: HostedState,
): SavedTraining {
  const { numbers, tensors } = saveOptimizer(engine, layersOf(program), optimizer);
  return {
    step: optimizer.step,
    state: {
      mode: 'hosted',
      optimizer: numbers,
      hasSlowWeights: slowWeights !== null,
      hasPreviousWeights: previousWeights !== null,
    },
    tensors: [
      ...saveWeights(engine, program, weights),
      ...saveStatistics(engine, program, statistics),
      ...(slowWeights === null ? [] : saveWeights(engine, program, slowWeights, WEIGHT_COPY.slow)),
      ...(previousWeights === null ? [] : saveWeights(engine, program, previousWeights, WEIGHT_COPY.previous)),
      ...tensors,
    ],
  };
}

/** @throws ProblemError as `restoreOptimizer` */
export function restoreHosted(
  program: Program,
  step: number,
  { optimizer, hasSlowWeights, hasPreviousWeights }: Extract<SavedState, { mode: 'hosted' }>,
  tensors: SavedTensors,
): HostedState {
  return {
    optimizer: restoreOptimizer(layersOf(program), step, optimizer, tensors),
    weights: restoreWeights(program, tensors),
    statistics: restoreStatistics(program, tensors),
    slowWeights: hasSlowWeights ? restoreWeights(program, tensors, WEIGHT_COPY.slow) : null,
    previousWeights: hasPreviousWeights ? restoreWeights(program, tensors, WEIGHT_COPY.previous) : null,
  };
}

function layersOf({ stages }: Program): StageLayer[] {
  return stages.map(({ layer }) => layer);
}

/** @param prefix before every name; none for the weights themselves */
export function saveWeights(engine: Engine, { stages }: Program, weights: Weights, prefix: Prefix = ''): NamedTensor[] {
  return stages.flatMap(({ layer }, t) =>
    PARAMETER_NAMES.flatMap((parameter) => {
      const tensor = weights[t]?.[parameter];
      return tensor === undefined
        ? []
        : [named(engine, prefix + HOSTED_TENSOR.parameter(layer.name, parameter), tensor)];
    }),
  );
}

export function saveStatistics(
  engine: Engine,
  { batchNorms }: Program,
  statistics: readonly ChannelStatistics[],
): NamedTensor[] {
  return batchNorms.flatMap(({ name, index }) => {
    const channel = statistics[index];
    if (channel === undefined) throw new RangeError(`no statistics of batch norm ${name}`);
    return [
      named(engine, HOSTED_TENSOR.runningMean(name), channel.mean),
      named(engine, HOSTED_TENSOR.runningVariance(name), channel.variance),
    ];
  });
}

function named(engine: Engine, name: string, tensor: Tensor): NamedTensor {
  return { name, shape: tensor.shape, values: engine.read(tensor) };
}

function restoreWeights({ stages }: Program, tensors: SavedTensors, prefix: Prefix = ''): Weights {
  return stages.map(({ layer }): StageParameters => {
    const shapes = parameterShapes(layer);
    return Object.fromEntries(
      PARAMETER_NAMES.flatMap((parameter) => {
        const shape = shapes[parameter];
        if (shape === undefined) return [];
        return [[parameter, tensors.take(prefix + HOSTED_TENSOR.parameter(layer.name, parameter), shape)] as const];
      }),
    );
  });
}

function restoreStatistics({ batchNorms }: Program, tensors: SavedTensors): ChannelStatistics[] {
  return batchNorms.map(({ name, channels }) => ({
    mean: tensors.take(HOSTED_TENSOR.runningMean(name), [channels]),
    variance: tensors.take(HOSTED_TENSOR.runningVariance(name), [channels]),
  }));
}
