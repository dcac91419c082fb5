/** The forward pass of a program, keeping what the backward pass needs, and the backward pass. */
import { elementCount } from '../../shared/shape.ts';
import type { Random } from '../../shared/random.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { activation } from './activation.ts';
import { dropout } from './dropout.ts';
import { batchNorm, fixedNorm, layerNorm, type ChannelStatistics } from './normalization.ts';
import type { StageParameters } from './parameters.ts';
import { pooling } from './pooling.ts';
import type { MapOperation, Operation, Program, StageOperation } from './program.ts';
import type { Differentiable, Pullback } from './pullback.ts';
import { stageMap } from './stage-map.ts';

/** x_t: the stack of tensors that the rest of the network depends on, [B, …] each; the stage's input is the last. */
export type StageState = readonly Tensor[];

/** How layers that differ between the two behave. */
export type Mode =
  /** `noise` gives the stream of an operation; the same one each time it is asked. */
  | { readonly kind: 'training'; readonly noise: (operation: number) => Random }
  | { readonly kind: 'evaluation'; readonly statistics: readonly ChannelStatistics[] };

/** What undoes an operation on a stack of gradients. */
type StackPullback = (stack: readonly Tensor[]) => Tensor[];

export interface Trajectory {
  /** x_T, [B, C]. */
  readonly output: Tensor;
  /** x_t at every stage. */
  readonly states: readonly StageState[];
  /** What each stage's layer is given, in the shape that its kind of layer has: [B, n], [B, P, n] or [B, H, W, C]. */
  readonly inputs: readonly Tensor[];
  /** Of every batch norm; empty in evaluation. */
  readonly statistics: readonly ChannelStatistics[];
  readonly pullbacks: readonly { readonly operation: Operation; readonly pullback: StackPullback }[];
}

/** What back-propagation of rows from the output finds at every stage; R rows, r per sample. */
export interface Backpropagation {
  /** In the layer's output z_t, [R, …]. */
  readonly outputGradients: readonly Tensor[];
  /** G_t in every tensor of the state x_t, [R, …] each. */
  readonly stateGradients: readonly (readonly Tensor[])[];
}

/**
 * @param control u_t, asked for when the pass reaches stage t with the state it has there
 * @param input x_0, [B, …]
 */
export function forward(
  engine: Engine,
  program: Program,
  control: (stage: number, state: StageState) => StageParameters,
  input: Tensor,
  mode: Mode,
): Trajectory {
  let stack: readonly Tensor[] = [input];
  const states: StageState[] = [];
  const inputs: Tensor[] = [];
  const statistics: ChannelStatistics[] = [];
  const pullbacks: { operation: Operation; pullback: StackPullback }[] = [];
  const onTop = ({ value, pullback }: Differentiable): StackPullback => {
    stack = [...stack.slice(0, -1), value];
    return (gradients) => [...gradients.slice(0, -1), pullback(top(gradients))];
  };

  function apply(operation: Operation, index: number): StackPullback {
    switch (operation.kind) {
      case 'stage': {
        states.push(stack);
        const parameters = control(operation.stage, stack);
        const x = engine.reshape(top(stack), [top(stack).shape[0] ?? 1, ...layerShape(operation)]);
        inputs.push(x);
        return onTop(stage(engine, operation, parameters, x));
      }
      case 'batch-norm': {
        if (mode.kind === 'training') {
          const norm = batchNorm(engine, operation.epsilon, top(stack));
          statistics.push(norm.statistics);
          return onTop(norm);
        }
        const running = mode.statistics[operation.index];
        if (running === undefined) throw new RangeError(`no statistics of batch norm ${String(operation.index)}`);
        return onTop(fixedNorm(engine, operation.epsilon, running, top(stack)));
      }
      case 'map':
        return onTop(map(engine, operation, index, mode, top(stack)));
      case 'fork':
        stack = [...stack, top(stack)];
        return (gradients) => [...gradients.slice(0, -2), engine.add(top(gradients.slice(0, -1)), top(gradients))];
      case 'swap':
        stack = swapped(stack);
        return swapped;
      case 'add':
        stack = [...stack.slice(0, -2), engine.add(top(stack.slice(0, -1)), top(stack))];
        return (gradients) => [...gradients, top(gradients)];
    }
  }

  for (const [index, operation] of program.operations.entries()) {
    pullbacks.push({ operation, pullback: apply(operation, index) });
  }
  return { output: top(stack), states, inputs, statistics, pullbacks };
}

/** Back-propagates rows from the output, [R, C]. */
export function backpropagate({ pullbacks }: Trajectory, rows: Tensor): Backpropagation {
  let stack: readonly Tensor[] = [rows];
  const outputGradients: Tensor[] = [];
  const stateGradients: (readonly Tensor[])[] = [];
  for (const { operation, pullback } of pullbacks.toReversed()) {
    if (operation.kind === 'stage') outputGradients.unshift(top(stack));
    stack = pullback(stack);
    if (operation.kind === 'stage') stateGradients.unshift(stack);
  }
  return { outputGradients, stateGradients };
}

function stage(engine: Engine, operation: StageOperation, parameters: StageParameters, x: Tensor): Differentiable {
  const { value, pullback } = stageMap(engine, operation.layer, parameters, x);
  const shaped = (tensor: Tensor, shape: readonly number[]): Tensor =>
    engine.reshape(tensor, [tensor.shape[0] ?? 1, ...shape]);
  const inner = value.shape.slice(1);
  const back: Pullback = (rows) => shaped(pullback(shaped(rows, inner)), operation.input);
  return { value: shaped(value, operation.output), pullback: back };
}

/** The shape in which a layer takes its input: a scale and shift takes images as positions. */
function layerShape({ layer, input }: StageOperation): readonly number[] {
  if (layer.kind !== 'scale-shift' || input.length < 3) return input;
  return [elementCount(input.slice(0, -1)), layer.features];
}

function map(engine: Engine, { layer, output }: MapOperation, index: number, mode: Mode, x: Tensor): Differentiable {
  switch (layer.kind) {
    case 'max-pooling':
    case 'average-pooling':
      return pooling(engine, layer, x);
    case 'flatten':
      return {
        value: engine.reshape(x, [x.shape[0] ?? 1, ...output]),
        pullback: (rows) => engine.reshape(rows, [rows.shape[0] ?? 1, ...x.shape.slice(1)]),
      };
    case 'layer-norm':
      return layerNorm(engine, layer.epsilon, x);
    case 'dropout':
      if (mode.kind === 'evaluation' || layer.rate === 0) return { value: x, pullback: (rows) => rows };
      return dropout(engine, layer.rate, mode.noise(index), x);
    case 'relu':
    case 'tanh':
    case 'sigmoid':
    case 'gelu':
    case 'softplus':
      return activation(engine, layer.kind, x);
  }
}

function top(stack: readonly Tensor[]): Tensor {
  const tensor = stack.at(-1);
  if (tensor === undefined) throw new RangeError('the stack is empty');
  return tensor;
}

function swapped(stack: readonly Tensor[]): Tensor[] {
  return [...stack.slice(0, -2), top(stack), top(stack.slice(0, -1))];
}
