/** A client of the service: creates sessions and takes them up again. Runs in Node, Deno, browsers and Workers. */
import { checkpointSchema, type Checkpoint } from '../../shared/checkpoint.ts';
import { estimateSchema, type Estimate, type EstimateOrderInput } from '../../shared/estimate.ts';
import type { HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import type { KernelDefinitionInput } from '../../shared/kernel-definition.ts';
import type { KernelSolveOptions } from '../../shared/kernel-solve.ts';
import type { LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { Session, SessionDefinitionInput } from '../../shared/session.ts';
import { HostedTrainingSession } from './hosted-session.ts';
import { withWeights, type InitialWeights } from './initial-weights.ts';
import { KernelTrainingSession } from './kernel-session.ts';
import { solveKernels, type KernelBatchInput, type SolvedKernels } from './kernel-solve.ts';
import { TrainingSession } from './layers-session.ts';
import type { StepRecord } from './metrics-history.ts';
import { DEFAULT_REPLAY, type ReplayLimits } from './replay-buffer.ts';
import { readSession, type SessionSettings } from './session.ts';
import { complete, Transport, type RequestOptions, type TransportOptions } from './transport.ts';

export interface ClientOptions extends TransportOptions {
  /** What each session keeps of its last steps, to send them again if the service has lost them; 32 steps and 64 MB unless given. */
  readonly replay?: Partial<ReplayLimits>;
  /** Called after every step that any session takes: for progress and metrics. What it throws `step` throws; the step counts. */
  readonly onStep?: (record: StepRecord) => void;
}

export class DdpnoptClient {
  readonly #transport: Transport;
  readonly #settings: SessionSettings;

  /** @throws RangeError, TypeError for an option out of its range */
  constructor({ replay = {}, onStep, ...options }: ClientOptions) {
    this.#transport = new Transport(options);
    this.#settings = { replay: { ...DEFAULT_REPLAY, ...replay }, onStep };
  }

  /** Creates a session for a model that the caller runs. @throws DdpnoptError, ConnectionError, TypeError for another mode */
  async createSession(definition: LayersDefinitionInput, options: RequestOptions = {}): Promise<TrainingSession> {
    refuseMode(definition, 'layers');
    return this.#inLayersMode(await this.#create(definition, options));
  }

  /**
   * Creates a session for a model that the service runs.
   *
   * @throws DdpnoptError, ConnectionError; TypeError for another mode; RangeError for weights that the model does not have
   */
  async createHostedSession(
    definition: Omit<HostedDefinitionInput, 'mode'>,
    { initialWeights, ...options }: RequestOptions & { readonly initialWeights?: InitialWeights } = {},
  ): Promise<HostedTrainingSession> {
    refuseMode(definition, 'hosted');
    const session = this.#inHostedMode(await this.#create({ ...definition, mode: 'hosted' }, options));
    if (initialWeights === undefined) return session;
    return this.#exchangeWeights(session, initialWeights, options);
  }

  /** A session like this new one, which is deleted, with other weights. */
  async #exchangeWeights(
    session: HostedTrainingSession,
    weights: InitialWeights,
    options: RequestOptions,
  ): Promise<HostedTrainingSession> {
    const checkpoints: string[] = [];
    try {
      const { id } = await session.makeCheckpoint(options);
      checkpoints.push(id);
      const file = await withWeights(await this.downloadCheckpoint(id, options), weights);
      const imported = await this.importCheckpoint(file, options);
      checkpoints.push(imported.id);
      return await this.resumeHostedSession(imported.id, options);
    } finally {
      // Not with the caller's signal: what was made is to go, however this ends.
      await Promise.all([session.delete(), ...checkpoints.map((id) => this.deleteCheckpoint(id))]);
    }
  }

  /** Creates a session for a caller that keeps its data and parameters. @throws DdpnoptError, ConnectionError, TypeError */
  async createKernelSession(
    definition: Omit<KernelDefinitionInput, 'mode'>,
    options: RequestOptions = {},
  ): Promise<KernelTrainingSession> {
    refuseMode(definition, 'kernel');
    return this.#inKernelMode(await this.#create({ ...definition, mode: 'kernel' }, options));
  }

  /** Solves the systems of one batch without a session. @throws DdpnoptError, ConnectionError, RangeError */
  solveKernels(
    batch: KernelBatchInput,
    settings: Partial<KernelSolveOptions> = {},
    options: RequestOptions = {},
  ): Promise<SolvedKernels> {
    return solveKernels(this.#transport, batch, settings, options);
  }

  /**
   * What a step of a session would take, and whether it would be accepted; neither need exist.
   *
   * @param batch samples of the step
   * @throws DdpnoptError `invalid_parameter` for a definition that is none; ConnectionError
   */
  async estimate(
    session: SessionDefinitionInput,
    batch: number,
    settings: Pick<EstimateOrderInput, 'positions' | 'sendAs'> = {},
    options: RequestOptions = {},
  ): Promise<Estimate> {
    const order: EstimateOrderInput = { session, batch, ...settings };
    const body = { contentType: 'application/json', content: JSON.stringify(order), isRepeatable: true };
    const answer = await this.#transport.request('POST', 'v1/estimates', options, body);
    return complete(async () => estimateSchema.parse(await answer.json()));
  }

  /** Takes up a session that exists, at the step where the service stands. @throws DdpnoptError, ConnectionError, TypeError */
  async openSession(id: string, options: RequestOptions = {}): Promise<TrainingSession> {
    return this.#inLayersMode(await this.#get(id, options));
  }

  /** As {@link openSession}, in kernel mode; all inverse factors come anew. @throws DdpnoptError, ConnectionError, TypeError */
  async openKernelSession(id: string, options: RequestOptions = {}): Promise<KernelTrainingSession> {
    return this.#inKernelMode(await this.#get(id, options));
  }

  /** As {@link openSession}, for a model that the service runs. @throws DdpnoptError, ConnectionError, TypeError */
  async openHostedSession(id: string, options: RequestOptions = {}): Promise<HostedTrainingSession> {
    return this.#inHostedMode(await this.#get(id, options));
  }

  /**
   * Creates a session that goes on where a checkpoint was made, at its step.
   *
   * @throws DdpnoptError, ConnectionError; TypeError if the checkpoint is of another mode
   */
  async resumeSession(checkpoint: string, options: RequestOptions = {}): Promise<TrainingSession> {
    return this.#inLayersMode(await this.#resume(checkpoint, 'layers', options));
  }

  /** As {@link resumeSession}, for a model that the service runs. @throws DdpnoptError, ConnectionError, TypeError */
  async resumeHostedSession(checkpoint: string, options: RequestOptions = {}): Promise<HostedTrainingSession> {
    return this.#inHostedMode(await this.#resume(checkpoint, 'hosted', options));
  }

  /** As {@link resumeSession}, for a kernel session. @throws DdpnoptError, ConnectionError, TypeError */
  async resumeKernelSession(checkpoint: string, options: RequestOptions = {}): Promise<KernelTrainingSession> {
    return this.#inKernelMode(await this.#resume(checkpoint, 'kernel', options));
  }

  /** A checkpoint's safetensors file. @throws DdpnoptError, ConnectionError */
  async downloadCheckpoint(id: string, options: RequestOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    const answer = await this.#transport.request('GET', `v1/checkpoints/${id}`, options);
    return complete(async () => new Uint8Array(await answer.arrayBuffer()));
  }

  /** Brings a downloaded file into the service. @throws DdpnoptError if it is damaged, ConnectionError */
  async importCheckpoint(file: Uint8Array<ArrayBuffer>, options: RequestOptions = {}): Promise<Checkpoint> {
    const body = { contentType: SAFETENSORS_CONTENT_TYPE, content: file };
    const answer = await this.#transport.request('POST', 'v1/checkpoints', options, body);
    return complete(async () => checkpointSchema.parse(await answer.json()));
  }

  /** @throws DdpnoptError, ConnectionError */
  async deleteCheckpoint(id: string, options: RequestOptions = {}): Promise<void> {
    await this.#transport.request('DELETE', `v1/checkpoints/${id}`, options);
  }

  async #resume(checkpoint: string, mode: Session['mode'], options: RequestOptions): Promise<Session> {
    const body = { contentType: 'application/json', content: JSON.stringify({ fromCheckpoint: checkpoint }) };
    const session = await readSession(await this.#transport.request('POST', 'v1/sessions', options, body));
    // Only now it is known, and nobody will have the session.
    if (session.mode !== mode) await this.#transport.request('DELETE', `v1/sessions/${session.id}`, options);
    return session;
  }

  async #create(definition: SessionDefinitionInput, options: RequestOptions): Promise<Session> {
    const body = { contentType: 'application/json', content: JSON.stringify(definition) };
    return readSession(await this.#transport.request('POST', 'v1/sessions', options, body));
  }

  async #get(id: string, options: RequestOptions): Promise<Session> {
    return readSession(await this.#transport.request('GET', `v1/sessions/${id}`, options));
  }

  #inLayersMode(session: Session): TrainingSession {
    if (session.mode === 'layers') return new TrainingSession(this.#transport, session, this.#settings);
    throw otherMode(session);
  }

  #inKernelMode(session: Session): KernelTrainingSession {
    if (session.mode === 'kernel') return new KernelTrainingSession(this.#transport, session, this.#settings);
    throw otherMode(session);
  }

  #inHostedMode(session: Session): HostedTrainingSession {
    if (session.mode === 'hosted') return new HostedTrainingSession(this.#transport, session, this.#settings);
    throw otherMode(session);
  }
}

const CREATORS = { layers: 'createSession', kernel: 'createKernelSession', hosted: 'createHostedSession' } as const;
const OPENERS = { layers: 'openSession', kernel: 'openKernelSession', hosted: 'openHostedSession' } as const;

function otherMode({ id, mode }: Session): TypeError {
  return new TypeError(`session ${id} is in mode "${mode}"; open it with ${OPENERS[mode]}`);
}

/** The types do not let another mode through, but JavaScript does: before a session is made that nobody could use. */
function refuseMode(definition: object, mode: Session['mode']): void {
  if (!('mode' in definition) || definition.mode === undefined || definition.mode === mode) return;
  const wanted = Object.entries(CREATORS).find(([name]) => name === definition.mode);
  const remedy = wanted === undefined ? `"${mode}" is the mode here` : `create it with ${wanted[1]}`;
  throw new TypeError(`the definition is in mode ${JSON.stringify(definition.mode)}; ${remedy}`);
}
