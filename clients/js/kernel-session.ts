/** A session in `kernel` mode: the caller keeps data and parameters, and sends of each layer its tangent kernel. */
import { kernelReplyForm } from '../../shared/kernel-definition.ts';
import { factoredLayers, kernelStepTensors, type KernelStepTensor } from '../../shared/kernel-tensors.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import { encode, type NamedTensor, type TensorValues } from '../../shared/safetensors.ts';
import type { KernelSession, StepMetrics } from '../../shared/session.ts';
import type { StepParts } from '../../shared/step-parts.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { packAllSymmetric, unpackAllSymmetric } from '../../shared/triangle.ts';
import { readCoefficients, solveCoefficients, type PolicyCoefficients } from './coefficients.ts';
import { ReplyTensors } from './reply-tensors.ts';
import { ClientSession } from './session.ts';
import type { Answer, RequestOptions, StepOptions } from './transport.ts';

/** What one batch's passes yield for one layer; row-major. R = B·r rows, r per sample; r = 1 with terminal curvature "gradient". */
export interface KernelInput {
  /** N = J P⁻¹ Jᵀ, symmetric [R, R], without the learning rate. Its upper triangle is sent. */
  readonly gram?: TensorValues;
  /** The diagonal of N, [B], with batch coupling "diagonal", in place of all of it. */
  readonly gramDiagonal?: TensorValues;
  /** J P⁻¹ Dᵀ1/B, [R], D the loss gradients; where the terminal curvature's columns are others. */
  readonly gramMeanGradient?: TensorValues;
  /** The batch's factor statistics, with metric "kronecker", in the steps that carry them: for all layers with factors or none. */
  readonly factors?: {
    /**
     * aᵀa/B, symmetric [n, n], a constant 1 for the bias as the last of the inputs a; of a convolution with groups [groups, n, n]. Of
     * the first layer it may be left out when it is frozen (`firstInputFactor`).
     */
    readonly input?: TensorValues;
    /** gᵀ diag(h) g/B, symmetric [c, c] or [groups, c, c], with the terminal weights h of the batch (`terminalWeights`). */
    readonly outputGradient: TensorValues;
  };
}

export interface KernelStepInput {
  /** The loss of each sample, [B]. */
  readonly losses: TensorValues;
  /** The losses of the same samples under the parameters before the last step, with learning rate "levenberg-marquardt". */
  readonly previousLosses?: TensorValues;
  /** By layer name. */
  readonly layers: Readonly<Record<string, KernelInput>>;
}

/** What becomes of a layer: δu = −learningRate · P⁻¹(Dᵀ1/B + Jᵀκ), without Dᵀ1/B where the columns are the loss gradients. */
export interface KernelChange {
  /** η_t, the layer's group's factor included. */
  readonly learningRate: number;
  /** κ, [R]. */
  readonly coefficients: TensorValues;
}

/** As {@link KernelChange}, where κ depends on what the layers before have just changed. */
export class KernelPolicy {
  /** η_t, the layer's group's factor included. */
  readonly learningRate: number;
  readonly solver: PolicyCoefficients;

  constructor(learningRate: number, solver: PolicyCoefficients) {
    this.learningRate = learningRate;
    this.solver = solver;
  }

  /** κ(s), [R], for s as in `LayerPolicy.change`, one per row; null for 0. */
  coefficients(predictedChange: ArrayLike<number> | null): Float64Array {
    return solveCoefficients(this.solver, predictedChange);
  }
}

/** The service's damped inverse factors of one layer: P⁻¹ = A⁻¹ ⊗ Γ⁻¹, of a convolution with groups group by group. Row-major. */
export interface LayerInverses {
  readonly version: number;
  /** A⁻¹, [n, n] or [groups, n, n]. */
  readonly input: TensorValues;
  /** Γ⁻¹, [c, c] or [groups, c, c]. */
  readonly outputGradient: TensorValues;
}

interface Traffic {
  readonly metrics: StepMetrics;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** `coefficients`: of each layer's change. `factors`: to be solved in the second forward pass. Both by layer name. */
export type KernelStepReply =
  | (Traffic & { readonly kind: 'coefficients'; readonly changes: ReadonlyMap<string, KernelChange> })
  | (Traffic & { readonly kind: 'factors'; readonly policies: ReadonlyMap<string, KernelPolicy> });

export class KernelTrainingSession extends ClientSession<KernelSession> {
  readonly #inverses = new Map<string, LayerInverses>();

  /**
   * With metric "kronecker": the newest inverse factors that have come, by layer name. Compute the next step's N with them; a layer
   * that has none yet, or no factors, has a metric of your own, P = I for the former.
   */
  get inverses(): ReadonlyMap<string, LayerInverses> {
    return this.#inverses;
  }

  /**
   * Takes one step; the next one must wait for its reply. What follows an error is said at `TrainingSession.step`.
   *
   * @throws DdpnoptError, ConnectionError; RangeError if something is missing
   */
  step(input: KernelStepInput, options: StepOptions = {}): Promise<KernelStepReply> {
    return this.takeStep(() => encode(this.#tensorsOf(input, options)), this.#replyReader, options);
  }

  /**
   * Sends a mini-batch as part k of the next step, with batch coupling "diagonal"; the parts make up one batch in the order of k.
   *
   * @throws DdpnoptError `parts_unsupported` with other batch couplings; ConnectionError; RangeError as {@link step}
   */
  sendPart(k: number, input: KernelStepInput, options: StepOptions = {}): Promise<StepParts> {
    return this.putPart(k, encode(this.#tensorsOf(input, options)), options);
  }

  /** Takes the step whose parts 0 to `parts` − 1 have been sent. @throws DdpnoptError `parts_missing`; ConnectionError */
  commit(parts: number, options: RequestOptions = {}): Promise<KernelStepReply> {
    return this.commitParts(parts, this.#replyReader, options);
  }

  /** The reply of a step that another client has committed. @throws DdpnoptError `step_out_of_order` as long as it has not */
  reply(options: RequestOptions = {}): Promise<KernelStepReply> {
    return this.takeReply(this.#replyReader, options);
  }

  readonly #replyReader = async (answer: Answer, bytesSent: number): Promise<KernelStepReply> =>
    this.#readReply(new Uint8Array(await answer.arrayBuffer()), bytesSent);

  #tensorsOf(input: KernelStepInput, { sendAs }: StepOptions): NamedTensor[] {
    const batch = input.losses.length;
    const columns = Math.max(1, sentColumns(this.session.optimizer.terminalCurvature));
    return kernelStepTensors(this.session).flatMap((tensor): NamedTensor[] => {
      const { name, presence } = tensor;
      const values = this.#valuesOf(input, tensor, batch * columns);
      if (values === undefined && presence === 'required') throw new RangeError(`the step lacks ${name}`);
      if (values === undefined) return [];
      const shape = tensor.role === 'gramMeanGradient' ? [batch, columns] : ownShape(tensor, values);
      return [{ name, shape, values, ...(sendAs === undefined || tensor.layer === null ? {} : { dtype: sendAs }) }];
    });
  }

  #valuesOf(
    { losses, previousLosses, layers }: KernelStepInput,
    { name, role, layer }: KernelStepTensor,
    rows: number,
  ): TensorValues | undefined {
    const input = layers[layer ?? ''];
    const sizes = this.session.layers.find((each) => each.name === layer)?.factors;
    switch (role) {
      case 'losses':
        return losses;
      case 'previousLosses':
        return previousLosses;
      case 'metricVersions':
        return Float64Array.from(this.session.layers, (each) => this.#inverses.get(each.name)?.version ?? 0);
      case 'gram':
        return packed(name, input?.gram, rows);
      case 'gramDiagonal':
        return input?.gramDiagonal;
      case 'gramMeanGradient':
        return input?.gramMeanGradient;
      case 'inputFactor':
        return packed(name, input?.factors?.input, sizes?.inputs ?? 0, sizes?.groups);
      case 'outputFactor':
        return packed(name, input?.factors?.outputGradient, sizes?.outputs ?? 0, sizes?.groups);
    }
  }

  #readReply(body: Uint8Array, bytesSent: number): KernelStepReply {
    const reply = new ReplyTensors(body);
    const traffic: Traffic = { metrics: reply.metrics(), bytesSent, bytesReceived: body.length };
    const { layers } = this.session;
    const result = ((): KernelStepReply => {
      switch (kernelReplyForm(this.session)) {
        case 'coefficients': {
          const changes = layers.map(({ name }): [string, KernelChange] => [
            name,
            {
              learningRate: reply.number(TENSOR.learningRate(name)),
              coefficients: reply.values(TENSOR.coefficients(name)),
            },
          ]);
          return { kind: 'coefficients', ...traffic, changes: new Map(changes) };
        }
        case 'factors': {
          const policies = layers.map(({ name }): [string, KernelPolicy] => [
            name,
            new KernelPolicy(reply.number(TENSOR.learningRate(name)), readCoefficients(reply, name)),
          ]);
          return { kind: 'factors', ...traffic, policies: new Map(policies) };
        }
      }
    })();
    this.#keepInverses(reply);
    return result;
  }

  #keepInverses(reply: ReplyTensors): void {
    const { layers, optimizer } = this.session;
    if (optimizer.metric.kind === 'client') return;
    const versions = reply.values(TENSOR.metricVersions);
    for (const { layer, t } of factoredLayers(layers)) {
      const { name, factors } = layer;
      if (factors === null || !reply.has(TENSOR.inputInverse(name))) continue;
      this.#inverses.set(name, {
        version: versions[t] ?? 0,
        input: whole(reply.values(TENSOR.inputInverse(name)), factors.inputs),
        outputGradient: whole(reply.values(TENSOR.outputInverse(name)), factors.outputs),
      });
    }
  }
}

/** Numbers for the sizes that do not depend on the batch, else as many as there are. */
function ownShape({ shape }: KernelStepTensor, values: TensorValues): number[] {
  const sizes = shape.filter((size) => typeof size === 'number');
  return sizes.length === shape.length ? sizes : [values.length];
}

/** The upper triangles of symmetric matrices. @throws RangeError if there are not so many of n×n */
function packed(name: string, matrices: TensorValues | undefined, n: number, count = 1): TensorValues | undefined {
  if (matrices === undefined) return undefined;
  if (matrices.length === count * n * n) return packAllSymmetric(matrices, n);
  const expected = `${count === 1 ? '' : `${String(count)}×`}${String(n)}×${String(n)}`;
  throw new RangeError(`${name} has ${String(matrices.length)} values; ${expected} were expected`);
}

/** Packed symmetric matrices, [n, n] each, one after another. */
function whole(triangles: TensorValues, n: number): TensorValues {
  const matrices = unpackAllSymmetric(triangles, n);
  const joined = new (triangles instanceof Float64Array ? Float64Array : Float32Array)(matrices.length * n * n);
  for (const [index, matrix] of matrices.entries()) joined.set(matrix, index * n * n);
  return joined;
}
