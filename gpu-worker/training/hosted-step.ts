/**
 * One step of hosted training: forward pass, loss, backward pass, DDPNOpt's policies, and for feedback the second forward pass, in
 * which every stage reacts to what the stages before it have just changed (the other couplings take one forward pass in all):
 *
 *     û_t = u_t + δu_t(s_t),   s_t = G_tᵀ (x̂_t − x_t),   x̂_{t+1} = f_t(x̂_t, û_t),   x̂_0 = x_0
 */
import { at } from '../../shared/at.ts';
import { ProblemError } from '../../shared/errors.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import { judgesLastStep, type Lookahead, type TerminalCurvature } from '../../shared/optimizer.ts';
import type { ChannelStatistics } from '../model/normalization.ts';
import {
  changedParameters,
  initialWeights,
  interpolatedWeights,
  type StageParameters,
  type Weights,
} from '../model/parameters.ts';
import { compile, type Program } from '../model/program.ts';
import { rowDots } from '../model/pullback.ts';
import { curvatureStream, dropoutStream } from '../model/streams.ts';
import {
  backpropagate,
  forward,
  type Backpropagation,
  type Mode,
  type StageState,
  type Trajectory,
} from '../model/trajectory.ts';
import { controlChange, lessDecay, type Policy } from '../optimizer/ddp/policy.ts';
import { parameterChanges } from '../optimizer/layers/layer.ts';
import type { LossExpansion } from '../optimizer/losses/expansion.ts';
import { expandLoss, type Truth } from '../optimizer/losses/loss.ts';
import { INITIAL_STATE, type OptimizerState } from '../optimizer/state.ts';
import { assertFinite, finiteLayers, uncheckedStep, type StepBatch, type StepReply } from '../optimizer/step.ts';
import { synchronises } from '../optimizer/update/lookahead.ts';
import { tensorsIn, type Engine, type Tensor } from '../tensor/engine.ts';
import { readScalar } from '../tensor/scalar.ts';
import { mean } from '../../shared/checked-tensors.ts';

/** A definition made ready to run. */
export interface HostedConfiguration extends Pick<HostedDefinition, 'loss' | 'optimizer' | 'seed'> {
  readonly program: Program;
}

export interface HostedState {
  readonly optimizer: OptimizerState;
  readonly weights: Weights;
  /** φ of lookahead: the weights at the last synchronisation; null without lookahead and right after it. */
  readonly slowWeights: Weights | null;
  /** The weights before the last step, where the next one judges it (Levenberg–Marquardt rule); else null. */
  readonly previousWeights: Weights | null;
  /** Running statistics of every batch norm, for evaluation. */
  readonly statistics: readonly ChannelStatistics[];
}

export interface HostedBatch {
  /** x_0, [B, …]. */
  readonly input: Tensor;
  readonly truth: Truth;
}

export interface HostedResult {
  readonly state: HostedState;
  /** Mean loss of the batch before and after the step; both in training mode, with the same features dropped. */
  readonly lossBefore: number;
  /** Null where the coupling takes no second forward pass. */
  readonly lossAfter: number | null;
  /** h, [B]. */
  readonly terminalWeights: Tensor;
  /** η of this step. */
  readonly learningRate: number;
  readonly refreshed: boolean;
}

export function hostedConfiguration({ model, loss, optimizer, seed }: HostedDefinition): HostedConfiguration {
  return { loss, optimizer, seed, program: compile(model) };
}

export function initialHostedState(engine: Engine, { program, seed }: HostedConfiguration): HostedState {
  return engine.scope(() => ({
    optimizer: INITIAL_STATE,
    weights: initialWeights(engine, program, seed),
    slowWeights: null,
    previousWeights: null,
    statistics: program.batchNorms.map(({ channels }) => ({
      mean: engine.tensor(new Float32Array(channels), [channels]),
      variance: engine.tensor(new Float32Array(channels).fill(1), [channels]),
    })),
  }));
}

/**
 * @returns the next state and the metrics; the tensors of both, and only those, stay alive. Tensors of the old state that did not
 *   change are shared with the new one.
 * @throws ProblemError `numerical_failure` if something overflows; then nothing of the result exists and the old state stands
 */
export function hostedStep(
  engine: Engine,
  configuration: HostedConfiguration,
  state: HostedState,
  { input, truth }: HostedBatch,
): HostedResult {
  return engine.scope(() => {
    const { program, loss, optimizer, seed } = configuration;
    const { step } = state.optimizer;
    const mode: Mode = { kind: 'training', noise: (operation) => dropoutStream(seed, step, operation) };
    const pass = (control: (stage: number, x: StageState) => StageParameters): Trajectory =>
      forward(engine, program, control, input, mode);

    // Forward pass, and the loss and its curvature carried back through the network.
    const trajectory = pass((t) => at(state.weights, t));
    const expansion = expandLoss(engine, loss, trajectory.output, truth);
    const lossRows = backpropagate(trajectory, expansion.gradient);
    const columns = curvatureColumns(engine, optimizer.terminalCurvature, expansion, configuration, step);
    const columnRows = columns === null ? null : backpropagate(trajectory, columns);

    // The policies, or the changes where there is no second pass to wait for.
    const layers = program.stages.map(({ layer }) => layer);
    const reply = optimizer.coupling === 'feedback' ? 'policy' : 'update';
    // Where this batch judges the last step: its losses without that step.
    const { previousWeights } = state;
    const previousLosses =
      previousWeights === null
        ? null
        : expandLoss(engine, loss, pass((t) => at(previousWeights, t)).output, truth).values;
    const batch = stepBatch(trajectory, expansion, lossRows, columnRows, state.weights, previousLosses);
    // Lookahead waits for the weights that the second pass makes.
    const fastOptimizer = { ...optimizer, lookahead: null };
    const unchecked = uncheckedStep(engine, { layers, optimizer: fastOptimizer, reply }, state.optimizer, batch);
    const { suspects, ...result } = unchecked;

    const { fastWeights, trajectoryAfter } = applyStep(engine, state.weights, result.reply, (policies) => {
      // The second forward pass changes the weights as it reaches them.
      const change = feedbackChange(engine, program, policies, trajectory, columnRows ?? lossRows);
      const weights: StageParameters[] = [];
      const changed = pass((t, x) => {
        const parameters = changedParameters(engine, at(state.weights, t), change(t, x));
        weights.push(parameters);
        return parameters;
      });
      return { fastWeights: weights, trajectoryAfter: changed };
    });
    const { weights, slowWeights } = lookAhead(engine, optimizer.lookahead, state, fastWeights);
    const after = trajectoryAfter === null || weights === fastWeights ? trajectoryAfter : pass((t) => at(weights, t));
    const lossesAfter = after === null ? null : expandLoss(engine, loss, after.output, truth).values;

    const next: HostedState = {
      optimizer: result.state,
      weights,
      slowWeights,
      previousWeights: judgesLastStep(optimizer.learningRate, step + 1) ? state.weights : null,
      statistics: runningStatistics(engine, program, state, trajectory),
    };
    const { terminalWeights } = result;
    const known = tensorsIn(state, engine.isTensor);
    const isFinite = engine.isFinite([...tensorsIn(next, engine.isTensor)].filter((tensor) => !known.has(tensor)));
    engine.evaluate([next, result.learningRate, expansion.values, lossesAfter, terminalWeights, isFinite]);
    const lossBefore = mean(engine.read(expansion.values));
    const lossAfter = lossesAfter === null ? null : mean(engine.read(lossesAfter));
    // Refused before it replaces the state. Which layer is at fault is looked for only then.
    if (engine.read(isFinite)[0] !== 1 || !Number.isFinite(lossBefore) || !Number.isFinite(lossAfter ?? 0)) {
      const finite = finiteLayers(engine, suspects);
      engine.evaluate(finite);
      assertFinite(engine, layers, finite, unchecked);
      throw overflow(engine, lossBefore, lossAfter);
    }
    return {
      state: next,
      lossBefore,
      lossAfter,
      terminalWeights,
      learningRate: readScalar(engine, result.learningRate),
      refreshed: result.refreshed,
    };
  });
}

/** What a model answers, and its loss where the truth is known. */
export interface Evaluation {
  /** [B, C]. */
  readonly outputs: Tensor;
  readonly loss: number | null;
}

/** One forward pass in evaluation mode: nothing is dropped, and batch norms use their running statistics. */
export function evaluate(
  engine: Engine,
  { program, loss }: HostedConfiguration,
  { weights, statistics }: HostedState,
  input: Tensor,
  truth: Truth | null,
): Evaluation {
  const { output } = forward(engine, program, (t) => at(weights, t), input, { kind: 'evaluation', statistics });
  const losses = truth === null ? null : expandLoss(engine, loss, output, truth).values;
  engine.evaluate([output, losses]);
  return { outputs: output, loss: losses === null ? null : mean(engine.read(losses)) };
}

/** Columns of the terminal curvature at the output, [B·r, C]; null where the loss gradients are the columns. */
function curvatureColumns(
  engine: Engine,
  curvature: TerminalCurvature,
  expansion: LossExpansion,
  { seed }: HostedConfiguration,
  step: number,
): Tensor | null {
  switch (curvature.kind) {
    case 'gradient':
      return null;
    case 'gauss-newton': {
      const columnsFirst = engine.transpose(expansion.factor(), [0, 2, 1]); // [B, r, C]
      const [batch = 1, columns = 1, outputs = 1] = columnsFirst.shape;
      return engine.reshape(columnsFirst, [batch * columns, outputs]);
    }
    case 'sampled-fisher':
      return expansion.sampledGradient(curvatureStream(seed, step));
  }
}

/** What the optimizer's step takes of both passes. */
function stepBatch(
  { inputs }: Trajectory,
  { values }: LossExpansion,
  lossRows: Backpropagation,
  columnRows: Backpropagation | null,
  weights: Weights,
  previousLosses: Tensor | null,
): StepBatch {
  return {
    losses: values,
    previousLosses,
    layers: inputs.map((input, t) => ({
      input,
      lossGradient: at(lossRows.outputGradients, t),
      columnGradient: columnRows === null ? null : at(columnRows.outputGradients, t),
      parameters: at(weights, t),
    })),
  };
}

/** Weights after a step, and the forward pass with them if there was one. */
interface Applied {
  readonly fastWeights: Weights;
  readonly trajectoryAfter: Trajectory | null;
}

/** The weights after a step: at once where the changes are known, else in the second forward pass, in which policies become changes. */
function applyStep(
  engine: Engine,
  weights: Weights,
  reply: StepReply,
  rollOut: (policies: readonly Policy[]) => Applied,
): Applied {
  switch (reply.kind) {
    case 'policy':
      return rollOut(reply.policies);
    case 'update': {
      const fastWeights = weights.map((parameters, t) => changedParameters(engine, parameters, at(reply.changes, t)));
      return { fastWeights, trajectoryAfter: null };
    }
  }
}

/** δu_t for the state x̂_t in which the second pass reaches stage t. */
function feedbackChange(
  engine: Engine,
  { stages }: Program,
  policies: readonly Policy[],
  trajectory: Trajectory,
  { stateGradients }: Backpropagation,
): (t: number, state: StageState) => ReturnType<typeof parameterChanges> {
  return (t, state) => {
    const policy = at(policies, t);
    // Nothing has changed before the first stage.
    const s = t === 0 ? null : predictedChange(engine, at(stateGradients, t), state, at(trajectory.states, t));
    const changes = lessDecay(engine, policy, controlChange(engine, policy, s));
    return parameterChanges(engine, at(stages, t).layer, changes);
  };
}

/** s_t = G_tᵀ (x̂_t − x_t) over every tensor of the state, [R]. */
function predictedChange(engine: Engine, G: readonly Tensor[], state: StageState, nominal: StageState): Tensor {
  return engine.scope(() =>
    G.map((rows, entry) => rowDots(engine, rows, engine.subtract(at(state, entry), at(nominal, entry)))).reduce(
      (sum, term) => engine.add(sum, term),
    ),
  );
}

/** The weights after a fast step, or at every k-th step what lookahead makes of them; and the next slow weights. */
function lookAhead(
  engine: Engine,
  lookahead: Lookahead | null,
  state: HostedState,
  fast: Weights,
): Pick<HostedState, 'weights' | 'slowWeights'> {
  if (lookahead === null) return { weights: fast, slowWeights: null };
  const slow = state.slowWeights ?? state.weights;
  if (!synchronises(lookahead, state.optimizer.step)) return { weights: fast, slowWeights: slow };
  return { weights: interpolatedWeights(engine, slow, fast, lookahead.interpolation), slowWeights: null };
}

/** Moving averages over the first passes, which ran on the weights that the state had. */
function runningStatistics(
  engine: Engine,
  { batchNorms }: Program,
  state: HostedState,
  { statistics }: Trajectory,
): ChannelStatistics[] {
  const { add, multiply } = engine;
  return batchNorms.map(({ index, decay }) => {
    const average = (key: keyof ChannelStatistics): Tensor =>
      add(multiply(at(state.statistics, index)[key], decay), multiply(at(statistics, index)[key], 1 - decay));
    return { mean: average('mean'), variance: average('variance') };
  });
}

function overflow({ precision }: Engine, lossBefore: number, lossAfter: number | null): ProblemError {
  const after = lossAfter === null ? '' : ` and ${String(lossAfter)} after it`;
  return new ProblemError('numerical_failure', {
    detail: `The loss is ${String(lossBefore)} before the step${after}: the step overflows ${precision}.`,
    remedy: 'Check the scale of the inputs, or lower the learning rate.',
  });
}
