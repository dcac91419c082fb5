/** A client of the service: creates sessions and takes steps. Runs in Node, Deno, browsers and Workers. */
import { isProblem, problemSchema } from '../../shared/errors.ts';
import {
  encode,
  readHeader,
  readValues,
  SAFETENSORS_CONTENT_TYPE,
  type NamedTensor,
  type TensorValues,
} from '../../shared/safetensors.ts';
import {
  replyForm,
  sessionSchema,
  stepMetricsSchema,
  type Session,
  type SessionDefinitionInput,
  type StepMetrics,
} from '../../shared/session.ts';
import {
  expectedTensors,
  isOptional,
  PARAMETER_NAMES,
  TENSOR,
  type ExpectedTensor,
  type ParameterName,
} from '../../shared/step.ts';
import { ConnectionError, DdpnoptError } from './errors.ts';
import { LayerPolicy, type ParameterChanges, type PolicyCoefficients } from './policy.ts';

export interface ClientOptions {
  /** Where the service is, for example http://127.0.0.1:8787. */
  readonly url: string | URL;
}

export interface RequestOptions {
  /** Cancels the request. */
  readonly signal?: AbortSignal;
}

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

export class DdpnoptClient {
  readonly #base: URL;

  constructor({ url }: ClientOptions) {
    // With a closing slash, so that paths are resolved below it.
    this.#base = new URL(String(url).replace(/\/*$/, '/'));
  }

  /** Creates a training session. @throws DdpnoptError, ConnectionError */
  async createSession(definition: SessionDefinitionInput, options: RequestOptions = {}): Promise<TrainingSession> {
    const body = JSON.stringify(definition);
    const response = await this.request('POST', 'v1/sessions', options, 'application/json', body);
    return new TrainingSession(this, await readSession(response));
  }

  /** Takes up a session that exists, at the step where the service stands. @throws DdpnoptError, ConnectionError */
  async openSession(id: string, options: RequestOptions = {}): Promise<TrainingSession> {
    const response = await this.request('GET', `v1/sessions/${id}`, options);
    return new TrainingSession(this, await readSession(response));
  }

  /** One request to the service. @throws DdpnoptError if it refuses, ConnectionError if no answer comes */
  async request(
    method: string,
    path: string,
    { signal }: RequestOptions,
    contentType?: string,
    body?: string | Uint8Array<ArrayBuffer>,
  ): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(new URL(path, this.#base), {
        method,
        ...(body === undefined ? {} : { body }),
        ...(contentType === undefined ? {} : { headers: { 'content-type': contentType } }),
        ...(signal === undefined ? {} : { signal }),
      });
    } catch (cause) {
      if (signal?.aborted === true) throw cause;
      throw new ConnectionError(`${method} ${path} at ${this.#base.href}: no answer`, { cause });
    }
    if (response.ok) return response;
    if (isProblem(response)) {
      const problem = problemSchema.safeParse(await complete(() => response.json()));
      if (problem.success) throw new DdpnoptError(problem.data);
    }
    throw new ConnectionError(
      `${method} ${path} at ${this.#base.href}: status ${String(response.status)}, not from the service`,
    );
  }
}

/** A session and the number of its next step. */
export class TrainingSession {
  readonly #client: DdpnoptClient;
  readonly session: Session;
  #nextStep: number;
  #isStepping = false;

  constructor(client: DdpnoptClient, session: Session) {
    this.#client = client;
    this.session = session;
    this.#nextStep = session.nextStep;
  }

  get nextStep(): number {
    return this.#nextStep;
  }

  /**
   * Takes one optimizer step; the next one must wait for its reply.
   *
   * After a DdpnoptError the step has not been counted: correct the input, or send it again. After a ConnectionError or an abort
   * it may have been: call `step` with the same input again, which the service applies only once, or `resynchronise` to give the
   * step up.
   *
   * @throws DdpnoptError, ConnectionError
   */
  async step(input: StepInput, options: RequestOptions = {}): Promise<StepReply> {
    if (this.#isStepping) throw new Error('the session is taking a step; wait for its reply before the next one');
    this.#isStepping = true;
    try {
      const n = this.#nextStep;
      const body = encode(this.#tensorsOf(input));
      const path = `v1/sessions/${this.session.id}/steps/${String(n)}`;
      const response = await this.#client.request('PUT', path, options, SAFETENSORS_CONTENT_TYPE, body);
      const reply = await complete(async () =>
        this.#readReply(new Uint8Array(await response.arrayBuffer()), body.length),
      );
      this.#nextStep = n + 1;
      return reply;
    } finally {
      this.#isStepping = false;
    }
  }

  /** Goes on at the step the service expects, after one whose outcome is unknown. @throws DdpnoptError, ConnectionError */
  async resynchronise(options: RequestOptions = {}): Promise<void> {
    const { nextStep } = await this.describe(options);
    this.#nextStep = nextStep;
  }

  /** The session as the service sees it. @throws DdpnoptError, ConnectionError */
  async describe(options: RequestOptions = {}): Promise<Session> {
    return readSession(await this.#client.request('GET', `v1/sessions/${this.session.id}`, options));
  }

  /** Deletes the session. @throws DdpnoptError, ConnectionError */
  async delete(options: RequestOptions = {}): Promise<void> {
    await this.#client.request('DELETE', `v1/sessions/${this.session.id}`, options);
  }

  #tensorsOf(input: StepInput): NamedTensor[] {
    const batch = input.losses.length;
    return expectedTensors(this.session).flatMap((tensor): NamedTensor[] => {
      const { name, shape } = tensor;
      const values = valuesOf(input, tensor);
      if (values === undefined && isOptional(tensor)) return [];
      if (values === undefined) throw new RangeError(`the step lacks ${name}`);
      const known = shape.reduce<number>(
        (size, axis) => (axis === 'B' ? size * batch : axis === 'S' ? size : size * axis),
        1,
      );
      const sizes = shape.map((axis) => (axis === 'B' ? batch : axis === 'S' ? values.length / known : axis));
      return [{ name, shape: sizes, values }];
    });
  }

  #readReply(body: Uint8Array, bytesSent: number): StepReply {
    const header = readHeader(body);
    const entries = new Map(header.entries.map((entry) => [entry.name, entry]));
    const values = (name: string): TensorValues => {
      const entry = entries.get(name);
      if (entry === undefined) throw new RangeError(`it lacks ${name}`);
      return readValues(body, header, entry);
    };
    const metrics = stepMetricsSchema.parse(JSON.parse(header.metadata['metrics'] ?? 'null'));
    const traffic: Traffic = { metrics, bytesSent, bytesReceived: body.length };
    const { layers } = this.session;
    const changesOf = (layer: string): ParameterChanges => {
      const parameters = PARAMETER_NAMES.filter((parameter) => entries.has(TENSOR.update(layer, parameter)));
      return Object.fromEntries(parameters.map((parameter) => [parameter, values(TENSOR.update(layer, parameter))]));
    };
    switch (replyForm(this.session)) {
      case 'policy': {
        const policies = layers.map((layer): [string, LayerPolicy] => {
          if (layer.kind !== 'dense') throw new RangeError(`layer ${layer.name} has no policy`);
          const { name } = layer;
          const coefficients: PolicyCoefficients = entries.has(TENSOR.policyCholesky(name))
            ? {
                kind: 'cholesky',
                factor: values(TENSOR.policyCholesky(name)),
                target: values(TENSOR.policyTarget(name)),
              }
            : { kind: 'diagonal', gain: values(TENSOR.policyGain(name)), offset: values(TENSOR.policyOffset(name)) };
          const input = values(TENSOR.policyInput(name));
          const outputGradient = values(TENSOR.policyOutputGradient(name));
          return [name, new LayerPolicy(layer, { input, outputGradient, coefficients, fixedChange: changesOf(name) })];
        });
        return { kind: 'policy', ...traffic, policies: new Map(policies) };
      }
      case 'update': {
        const changes = layers.map(({ name }): [string, ParameterChanges] => [name, changesOf(name)]);
        return { kind: 'update', ...traffic, changes: new Map(changes) };
      }
    }
  }
}

function valuesOf({ losses, previousLosses, layers }: StepInput, tensor: ExpectedTensor): TensorValues | undefined {
  switch (tensor.role) {
    case 'losses':
      return losses;
    case 'previousLosses':
      return previousLosses;
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

/** Reads an answer to its end. @throws ConnectionError if it breaks off, or is not of the service's form */
async function complete<Result>(read: () => Promise<Result>): Promise<Result> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof Error && cause.name === 'AbortError') throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ConnectionError(`the answer is incomplete, or not from the service: ${reason}`, { cause });
  }
}

function readSession(response: Response): Promise<Session> {
  return complete(async () => sessionSchema.parse(await response.json()));
}
