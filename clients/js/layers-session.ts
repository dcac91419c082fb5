/** A session in `layers` mode: the caller runs its own model, and sends what each pass computed. */
import { replyForm } from '../../shared/layers-definition.ts';
import type { ParameterName } from '../../shared/parameter-names.ts';
import { encode, type NamedTensor, type TensorValues } from '../../shared/safetensors.ts';
import type { LayersSession, StepMetrics } from '../../shared/session.ts';
import type { StepParts } from '../../shared/step-parts.ts';
import { expectedTensors, type LayersStepTensor } from '../../shared/step.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import type { ParameterChanges } from './parameter-changes.ts';
import type { LayerPolicy, LayerSamples } from './policy.ts';
import { readChanges, readInverses, readPolicy, type HeldInverses } from './read-policy.ts';
import { ReplyTensors } from './reply-tensors.ts';
import { ClientSession } from './session.ts';
import type { Answer, RequestOptions, StepOptions } from './transport.ts';

/** What a forward and a backward pass over one batch yield for one layer; row-major. */
export interface LayerInput {
  /** What the layer was given, [B, …]; a generic layer has none. */
  readonly input?: TensorValues;
  /** Gradient of each sample's own loss in the layer's pre-activation (generic: in its parameters), not divided by B, [B, …]. */
  readonly outputGradient: TensorValues;
  /** The same for the r columns of the terminal curvature, [B, r, …]; with "gauss-newton" and "sampled-fisher". */
  readonly curvatureGradient?: TensorValues;
  /** The layer's parameters by name, in their own shapes; with weight decay. Those that do not decay may be left out. */
  readonly parameters?: Readonly<Partial<Record<ParameterName, TensorValues>>>;
}

/** What a forward and a backward pass over one batch yield. */
export interface StepInput {
  /** The loss of each sample, [B]. */
  readonly losses: TensorValues;
  /**
   * The losses of the same samples under the parameters before the last step, [B]; with learning rate "levenberg-marquardt", which
   * judges the last step by them. Not with the first step.
   */
  readonly previousLosses?: TensorValues;
  /** By layer name. */
  readonly layers: Readonly<Record<string, LayerInput>>;
}

interface Traffic {
  readonly metrics: StepMetrics;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** `policy`: to be applied in the second forward pass. `update`: to be added to the parameters. Both by layer name. */
export type StepReply =
  | (Traffic & { readonly kind: 'policy'; readonly policies: ReadonlyMap<string, LayerPolicy> })
  | (Traffic & { readonly kind: 'update'; readonly changes: ReadonlyMap<string, ParameterChanges> });

/** A session and the number of its next step. */
export class TrainingSession extends ClientSession<LayersSession> {
  readonly #inverses = new Map<string, HeldInverses>();

  /**
   * Takes one optimizer step; the next one must wait for its reply.
   *
   * After a DdpnoptError the step has not been counted: correct the input, or send it again. After a ConnectionError or an abort
   * it may have been: call `step` with the same input again, which the service applies only once, or `resynchronise` to give the
   * step up. `cancelStep` takes back a step that waits for its turn.
   *
   * @throws DdpnoptError, ConnectionError
   */
  step(input: StepInput, options: StepOptions = {}): Promise<StepReply> {
    return this.takeStep(
      () => encode(this.#tensorsOf(input, options)),
      async (answer, bytesSent) => this.#readReply(new Uint8Array(await answer.arrayBuffer()), bytesSent, input),
      options,
    );
  }

  /**
   * Sends a mini-batch as part k of the next step, from this client or another; the parts make up one batch in the order of k.
   *
   * @throws DdpnoptError, ConnectionError: send it again
   */
  sendPart(k: number, input: StepInput, options: StepOptions = {}): Promise<StepParts> {
    return this.putPart(k, encode(this.#tensorsOf(input, options)), options);
  }

  /**
   * Takes the step whose parts 0 to `parts` − 1 have been sent. What follows an error is said at {@link step}.
   *
   * @param batch all parts in one, where policies in inverse factors are to form changes of dense layers by themselves
   * @throws DdpnoptError `parts_missing` with the numbers that are; ConnectionError
   */
  commit(parts: number, options: RequestOptions & { readonly batch?: StepInput } = {}): Promise<StepReply> {
    return this.commitParts(parts, this.#replyReader(options.batch), options);
  }

  /** The reply of a step that another client has committed. @throws DdpnoptError `step_out_of_order` as long as it has not */
  reply(options: RequestOptions & { readonly batch?: StepInput } = {}): Promise<StepReply> {
    return this.takeReply(this.#replyReader(options.batch), options);
  }

  #replyReader(batch: StepInput | undefined): (answer: Answer, bytesSent: number) => Promise<StepReply> {
    return async (answer, bytesSent) =>
      this.#readReply(new Uint8Array(await answer.arrayBuffer()), bytesSent, batch ?? null);
  }

  #tensorsOf(input: StepInput, { sendAs }: StepOptions): NamedTensor[] {
    const batch = input.losses.length;
    return expectedTensors(this.session).flatMap((tensor): NamedTensor[] => {
      const { name, shape } = tensor;
      const values = this.#valuesOf(input, tensor);
      if (values === undefined && tensor.presence === 'optional') return [];
      if (values === undefined) throw new RangeError(`the step lacks ${name}`);
      const known = shape.reduce<number>(
        (size, axis) => (axis === 'B' ? size * batch : axis === 'S' ? size : size * axis),
        1,
      );
      const sizes = shape.map((axis) => (axis === 'B' ? batch : axis === 'S' ? values.length / known : axis));
      const narrowed = sendAs !== undefined && this.#isNarrowed(tensor) ? { dtype: sendAs } : {};
      return [{ name, shape: sizes, values, ...narrowed }];
    });
  }

  /** Neither losses nor whole numbers: versions, and the tokens of an embedding. */
  #isNarrowed({ role, layer }: LayersStepTensor): boolean {
    if (layer === null) return false;
    return role !== 'input' || this.session.layers.find(({ name }) => name === layer)?.kind !== 'embedding';
  }

  #readReply(body: Uint8Array, bytesSent: number, input: StepInput | null): StepReply {
    const reply = new ReplyTensors(body);
    const traffic: Traffic = { metrics: reply.metrics(), bytesSent, bytesReceived: body.length };
    const { layers } = this.session;
    switch (replyForm(this.session)) {
      case 'policy': {
        const inverses = this.#newInverses(reply);
        const policies = layers.map((layer): [string, LayerPolicy] => {
          const { name } = layer;
          const held = inverses.get(name) ?? this.#inverses.get(name);
          return [name, readPolicy(reply, layer, held, input === null ? null : samplesOf(input, name))];
        });
        for (const [name, held] of inverses) this.#inverses.set(name, held);
        return { kind: 'policy', ...traffic, policies: new Map(policies) };
      }
      case 'update': {
        const changes = layers.map(({ name }): [string, ParameterChanges] => [name, readChanges(reply, name)]);
        return { kind: 'update', ...traffic, changes: new Map(changes) };
      }
    }
  }

  /** What a reply brings of inverses, by layer name. */
  #newInverses(reply: ReplyTensors): Map<string, HeldInverses> {
    if (!reply.has(TENSOR.metricVersions)) return new Map();
    const versions = reply.values(TENSOR.metricVersions);
    const found = this.session.layers.flatMap((layer, t): [string, HeldInverses][] => {
      const inverses = readInverses(reply, layer, versions[t] ?? Number.NaN);
      return inverses === null ? [] : [[layer.name, inverses]];
    });
    return new Map(found);
  }

  #valuesOf(input: StepInput, tensor: LayersStepTensor): TensorValues | undefined {
    const { losses, previousLosses, layers } = input;
    switch (tensor.role) {
      case 'losses':
        return losses;
      case 'previousLosses':
        return previousLosses;
      case 'metricVersions':
        return Float64Array.from(this.session.layers, ({ name }) => this.#inverses.get(name)?.version ?? 0);
      case 'input':
        return layers[tensor.layer]?.input;
      case 'lossGradient':
        return layers[tensor.layer]?.outputGradient;
      case 'columnGradient':
        return layers[tensor.layer]?.curvatureGradient;
      case 'parameter':
        return layers[tensor.layer]?.parameters?.[tensor.parameter];
    }
  }
}

function samplesOf({ layers }: StepInput, layer: string): LayerSamples | null {
  const { input, outputGradient } = layers[layer] ?? {};
  return input === undefined || outputGradient === undefined ? null : { input, outputGradient };
}
