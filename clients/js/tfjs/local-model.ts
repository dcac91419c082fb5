/** The passes over a model that the client runs itself: forward and backward once, and once more with each layer's change applied. */
import { at } from '../../../shared/at.ts';
import type { TensorValues } from '../../../shared/safetensors.ts';
import type { ParameterChanges } from '../parameter-changes.ts';
import {
  activate,
  applyMap,
  averageStatistics,
  channelStatistics,
  linksOf,
  preActivation,
  sampleLosses,
  stageInput,
  type ChannelStatistics,
  type Link,
  type Stage,
} from './forward.ts';
import type { TfjsLoss } from './read-model.ts';
import type { Tensor, TensorFlow } from './tensorflow.ts';
import { accuracyOf, labelsOf, truthOf } from './truth.ts';
import type { Evaluation, TrainerSetting } from './trainer.ts';

/** What a forward and a backward pass leave behind for one stage; the tensors are the pass's. */
export interface StageTrace {
  /** [B, …]. */
  readonly input: Tensor;
  readonly preActivation: Tensor;
  /** Gradient of each sample's own loss in the pre-activation, [B, …]. */
  readonly gradient: Tensor;
}

export interface Pass {
  readonly batch: number;
  /** [B]. */
  readonly losses: Float32Array;
  /** In the order of the stages. */
  readonly traces: readonly StageTrace[];
  /** Of the inputs of batch normalisations, by their number among the stages. */
  readonly statistics: ReadonlyMap<number, ChannelStatistics>;
  readonly dispose: () => void;
}

/** A batch with the pass that was taken over it. */
export interface PassedBatch {
  readonly x: Tensor;
  /** As the loss takes it, [B, C]. */
  readonly truth: Tensor;
  readonly pass: Pass;
  /** Of the step's dropouts. */
  readonly seed: number;
}

export class LocalModel {
  readonly stages: readonly Stage[];
  readonly #tf: TensorFlow;
  readonly #links: readonly Link[];
  readonly #loss: TfjsLoss;

  /** @throws UnsupportedLayerError naming the layer */
  constructor({ tf, layers, loss }: Pick<TrainerSetting, 'tf' | 'layers' | 'loss'>) {
    this.#tf = tf;
    this.#links = linksOf(layers);
    this.#loss = loss;
    this.stages = this.#links.flatMap((link) => (link.kind === 'stage' ? [link.stage] : []));
  }

  /** @param seed of the dropouts; null for evaluation mode */
  #forward(
    x: Tensor,
    seed: number | null,
    onStage: (stage: Stage, t: number, input: Tensor, arriving: Tensor) => Tensor,
  ): Tensor {
    let t = 0;
    return this.#links.reduce((input, link, position) => {
      if (link.kind === 'map') return applyMap(this.#tf, link.read, input, position, seed);
      const { stage } = link;
      return activate(this.#tf, stage, onStage(stage, t++, stageInput(this.#tf, stage, input, seed !== null), input));
    }, x);
  }

  /** What the model answers without the activation that the loss has in itself, [B, C]. The caller disposes it. */
  outputs(x: Tensor): Tensor {
    const tf = this.#tf;
    return tf.tidy(() =>
      this.#forward(x, null, (stage, _, input) => preActivation(tf, stage, input, parametersOf(stage))),
    );
  }

  async evaluate(x: Tensor, y: Tensor, batchSize: number): Promise<Evaluation> {
    const tf = this.#tf;
    const size = x.shape[0];
    let loss = 0;
    let correct = 0;
    for (let begin = 0; begin < size; begin += batchSize) {
      const count = Math.min(batchSize, size - begin);
      const [rows, truthRows] = tf.tidy(
        () => [part(tf, x, begin, count), part(tf, y, begin, count)] as [Tensor, Tensor],
      );
      const outputs = this.outputs(rows);
      const truth = await truthOf(tf, this.#loss, truthRows, outputs.shape.at(-1) ?? 0);
      const losses = tf.tidy(() => sampleLosses(tf, this.#loss, outputs, truth));
      loss += sum(await losses.data<'float32'>());
      if (this.#loss === 'softmax-cross-entropy') {
        correct += count * accuracyOf(await outputs.data(), await labelsOf(truthRows, outputs.shape.at(-1) ?? 0));
      }
      tf.dispose([rows, truthRows, outputs, truth, losses]);
    }
    return { loss: loss / size, ...(this.#loss === 'softmax-cross-entropy' ? { accuracy: correct / size } : {}) };
  }

  /** Forward and backward, with the parameters as they are. @param seed of the dropouts */
  async pass(x: Tensor, truth: Tensor, seed: number): Promise<Pass> {
    const tf = this.#tf;
    const kept: Tensor[] = [];
    const keep = (tensor: Tensor): Tensor => {
      kept.push(tf.keep(tensor));
      return tensor;
    };
    const inputs: Tensor[] = [];
    const preActivations: Tensor[] = [];
    const statistics = new Map<number, ChannelStatistics>();
    let losses: Tensor | undefined;
    const batch = x.shape[0];
    // The gradient in something that is added to a pre-activation is the gradient in the pre-activation.
    const nothing = tf.tidy(() => this.stages.map((stage) => tf.zeros([batch, ...outputShapeOf(stage)])));
    const differentiate = tf.valueAndGrads((...added: Tensor[]) => {
      const outputs = this.#forward(x, seed, (stage, t, input, arriving) => {
        if (stage.core.kind === 'batch-norm') {
          const { mean, variance } = channelStatistics(tf, arriving);
          statistics.set(t, { mean: keep(tf.mul(mean, 1)), variance: keep(tf.mul(variance, 1)) });
        }
        inputs.push(keep(tf.mul(input, 1)));
        const sum = tf.add(preActivation(tf, stage, input, parametersOf(stage)), at(added, t));
        preActivations.push(keep(tf.mul(sum, 1)));
        return sum;
      });
      losses = keep(sampleLosses(tf, this.#loss, outputs, truth));
      return tf.sum(losses);
    });
    const { value, grads } = differentiate(nothing);
    kept.push(...grads);
    tf.dispose([value, ...nothing]);
    if (losses === undefined) throw new Error('the pass took no losses');
    return {
      batch,
      losses: Float32Array.from(await losses.data()),
      traces: inputs.map((input, t) => ({ input, preActivation: at(preActivations, t), gradient: at(grads, t) })),
      statistics,
      dispose: () => {
        tf.dispose(kept);
      },
    };
  }

  /** Counts a pass's batch in the running statistics, once its step is taken. */
  averageStatistics({ statistics }: Pass): void {
    for (const [t, observed] of statistics) {
      const stage = at(this.stages, t);
      if (stage.core.kind === 'batch-norm') averageStatistics(this.#tf, stage, observed, stage.core.momentum);
    }
  }

  /** The gradient of Σ_i κ_i φ_i in a stage's parameters, by name, in their own shapes: Jᵀκ. */
  async weightedGradient(
    stage: Stage,
    { input, gradient }: StageTrace,
    kappa: Float64Array,
  ): Promise<ParameterChanges> {
    const tf = this.#tf;
    const gradients = tf.tidy(() => {
      const weights = tf.tensor(Float32Array.from(kappa), [kappa.length, ...gradient.shape.slice(1).map(() => 1)]);
      const differentiate = tf.grads((...parameters: Tensor[]) => preActivation(tf, stage, input, parameters));
      return differentiate(parametersOf(stage), tf.mul(gradient, weights));
    });
    const values = await Promise.all(gradients.map((each) => each.data()));
    tf.dispose(gradients);
    return Object.fromEntries(stage.weights.map((name, index) => [name, Float32Array.from(at(values, index))]));
  }

  /**
   * The second forward pass: every stage in turn is given what the changes before it make of its input, and changed.
   *
   * @param change of a stage, given s, [B]: what the changed input does to each sample's loss, to first order; null at the first stage
   * @returns the mean loss after the changes
   */
  async changeInTurn(
    { x, truth, pass: { batch, traces }, seed }: PassedBatch,
    change: (stage: Stage, trace: StageTrace, predictedChange: Float32Array | null) => Promise<ParameterChanges>,
  ): Promise<number> {
    const tf = this.#tf;
    let t = 0;
    // Always the chain's own tensor, so that it can go when the next one is there.
    let input = tf.tidy(() => tf.mul(x, 1));
    const replace = (next: Tensor): void => {
      tf.dispose(input);
      input = next;
    };
    try {
      for (const [position, link] of this.#links.entries()) {
        if (link.kind === 'map') {
          replace(tf.tidy(() => tf.mul(applyMap(tf, link.read, input, position, seed), 1)));
          continue;
        }
        const { stage } = link;
        const trace = at(traces, t);
        replace(tf.tidy(() => tf.mul(stageInput(tf, stage, input, true), 1)));
        let predicted: Float32Array | null = null;
        if (t++ > 0) {
          const dots = tf.tidy(() => {
            const moved = tf.sub(preActivation(tf, stage, input, parametersOf(stage)), trace.preActivation);
            return tf.sum(tf.reshape(tf.mul(trace.gradient, moved), [batch, -1]), -1);
          });
          predicted = Float32Array.from(await dots.data());
          tf.dispose(dots);
        }
        addChanges(tf, stage, await change(stage, trace, predicted));
        replace(tf.tidy(() => tf.mul(activate(tf, stage, preActivation(tf, stage, input, parametersOf(stage))), 1)));
      }
      const losses = tf.tidy(() => sampleLosses(tf, this.#loss, input, truth));
      const mean = sum(await losses.data<'float32'>()) / batch;
      tf.dispose(losses);
      return mean;
    } finally {
      tf.dispose(input);
    }
  }
}

/** The parameters as they are; the model's own tensors, not to be disposed. What a layer has besides stands behind them. */
export function parametersOf({ layer, weights }: Stage): Tensor[] {
  return layer.weights.slice(0, weights.length).map((weight) => weight.read());
}

/** Adds to the model's parameters. @throws RangeError for a change of another shape */
export function addChanges(tf: TensorFlow, { layer, weights }: Stage, changes: ParameterChanges): void {
  for (const [index, name] of weights.entries()) {
    const variable = at(layer.weights, index);
    const values = changes[name];
    if (values === undefined) throw new RangeError(`layer ${layer.name}: its ${name} has no change`);
    tf.tidy(() => {
      const parameter = variable.read();
      variable.write(tf.add(parameter, tf.tensor(float32(values), parameter.shape)));
    });
  }
}

function outputShapeOf({ layer }: Stage): number[] {
  const shape = layer.inboundNodes[0]?.outputShapes[0];
  const sizes = Array.isArray(shape) ? shape.slice(1) : [];
  return sizes.map((size) => {
    if (typeof size === 'number') return size;
    throw new RangeError(
      `layer ${layer.name} has an output of unknown shape; give the first layer of the model an inputShape`,
    );
  });
}

function part(tf: TensorFlow, tensor: Tensor, begin: number, count: number): Tensor {
  const rest = tensor.shape.slice(1);
  return tf.slice(tensor, [begin, ...rest.map(() => 0)], [count, ...rest]);
}

function float32(values: TensorValues): Float32Array {
  return values instanceof Float32Array ? values : Float32Array.from(values);
}

function sum(values: Float32Array): number {
  return values.reduce((total, value) => total + value, 0);
}
