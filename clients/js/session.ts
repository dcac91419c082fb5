/** A session as a client holds it, in either mode: its description and the number of its next step. */
import { checkpointListSchema, checkpointSchema, type Checkpoint } from '../../shared/checkpoint.ts';
import { MERGE_PATCH_CONTENT_TYPE, type SessionChanges } from '../../shared/session-changes.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { stepPartsSchema, type StepParts } from '../../shared/step-parts.ts';
import { sessionSchema, type Session, type StepMetrics } from '../../shared/session.ts';
import { ConnectionError, DdpnoptError, ReplayError } from './errors.ts';
import { listen, type EventOptions, type TrainingEvent } from './events.ts';
import { MetricsHistory, type StepRecord } from './metrics-history.ts';
import { ReplayBuffer, type ReplayLimits } from './replay-buffer.ts';
import { type Answer, complete, type RequestOptions, type Transport } from './transport.ts';

/** What a client sets for all of its sessions. */
export interface SessionSettings {
  readonly replay: ReplayLimits;
  readonly onStep: ((record: StepRecord) => void) | undefined;
}

/** What says how a step went. */
type Reported = StepMetrics | { readonly metrics: StepMetrics };

const BUSY = 'the session is taking a step, or a run; wait for its end before the next one';

/** How often one step may find that the service has lost steps before it. */
const MAXIMUM_REWINDS = 3;

export abstract class ClientSession<Description extends Session> {
  /** What the steps taken here reported, ready to plot. */
  readonly history = new MetricsHistory();
  #session: Description;
  protected readonly transport: Transport;
  readonly #settings: SessionSettings;
  readonly #replay: ReplayBuffer;
  #nextStep: number;
  #isStepping = false;

  constructor(transport: Transport, session: Description, settings: SessionSettings) {
    this.transport = transport;
    this.#session = session;
    this.#settings = settings;
    this.#replay = new ReplayBuffer(settings.replay);
    this.#nextStep = session.nextStep;
  }

  /** As the service described it when it was created, opened, changed or resynchronised. */
  get session(): Description {
    return this.#session;
  }

  get nextStep(): number {
    return this.#nextStep;
  }

  /** Goes on at the step the service expects, after one whose outcome is unknown. @throws DdpnoptError, ConnectionError */
  async resynchronise(options: RequestOptions = {}): Promise<void> {
    this.#session = this.#ofSameMode(await this.describe(options));
    this.#nextStep = this.#session.nextStep;
    // What was sent may not be what was applied.
    this.#replay.clear();
  }

  /**
   * Changes options of the optimizer, or the session's lifetime, from the next step on. What is null goes back to its default.
   *
   * @returns the session as it is then; `optimizerFromStep` is the first step that the changed options hold for
   * @throws DdpnoptError `option_fixed` for what the state's form depends on, `invalid_parameter`; ConnectionError; Error while a
   *   step is under way
   */
  async change(changes: SessionChanges, options: RequestOptions = {}): Promise<Description> {
    // Its reply is read in the form that the options ask for.
    if (this.#isStepping) throw new Error('the session is taking a step; wait for its reply before changing options');
    const body = { contentType: MERGE_PATCH_CONTENT_TYPE, content: JSON.stringify(changes) };
    this.#session = this.#ofSameMode(
      await readSession(await this.transport.request('PATCH', this.path, options, body)),
    );
    return this.#session;
  }

  /** The session as the service sees it. @throws DdpnoptError, ConnectionError */
  async describe(options: RequestOptions = {}): Promise<Session> {
    return readSession(await this.transport.request('GET', this.path, options));
  }

  /**
   * Cancels the step that is under way if it still waits for its turn: `step` then throws `step_cancelled`, and the step can be
   * taken again, with the same input or another. Where no step waits nothing happens.
   *
   * @throws DdpnoptError `step_in_progress`, `step_applied`: it is too late, the reply will come; ConnectionError
   */
  async cancelStep(options: RequestOptions = {}): Promise<void> {
    await this.transport.request('DELETE', `${this.path}/steps/${String(this.#nextStep)}`, options);
  }

  /** The parts of the next step that the service has. @throws DdpnoptError, ConnectionError */
  async parts(options: RequestOptions = {}): Promise<StepParts> {
    return readParts(await this.transport.request('GET', this.#partsPath, options));
  }

  /** Drops a part of the next step, to send another in its place; without k all of them. @throws DdpnoptError, ConnectionError */
  async dropParts(k?: number, options: RequestOptions = {}): Promise<void> {
    const path = k === undefined ? this.#partsPath : `${this.#partsPath}/${String(k)}`;
    await this.transport.request('DELETE', path, options);
  }

  /**
   * The steps of the session as they are taken, by this client or others, until the session ends:
   *
   *     for await (const { event, data } of session.events({ after: -1 })) if (event === 'step') console.log(data.step, data.loss);
   *
   * @throws DdpnoptError, ConnectionError
   */
  events(options: EventOptions = {}): AsyncGenerator<TrainingEvent, void> {
    return listen(this.transport, `${this.path}/events`, options);
  }

  /** Makes a checkpoint of the state as of the last step; it outlives the session. @throws DdpnoptError, ConnectionError */
  async makeCheckpoint(options: RequestOptions = {}): Promise<Checkpoint> {
    const answer = await this.transport.request('POST', `${this.path}/checkpoints`, options);
    return complete(async () => checkpointSchema.parse(await answer.json()));
  }

  /** The session's checkpoints, oldest first. @throws DdpnoptError, ConnectionError */
  async checkpoints(options: RequestOptions = {}): Promise<readonly Checkpoint[]> {
    const answer = await this.transport.request('GET', `${this.path}/checkpoints`, options);
    return complete(async () => checkpointListSchema.parse(await answer.json()).checkpoints);
  }

  /** Deletes the session. Its checkpoints stay. @throws DdpnoptError, ConnectionError */
  async delete(options: RequestOptions = {}): Promise<void> {
    await this.transport.request('DELETE', this.path, options);
  }

  #ofSameMode(session: Session): Description {
    if (session.mode !== this.#session.mode) throw new ConnectionError('the session came back in another mode');
    // The mode decides over the type.
    return session as Description;
  }

  get #partsPath(): string {
    return `${this.path}/steps/${String(this.#nextStep)}/parts`;
  }

  protected async putPart(k: number, content: Uint8Array<ArrayBuffer>, options: RequestOptions): Promise<StepParts> {
    const body = { contentType: SAFETENSORS_CONTENT_TYPE, content };
    return readParts(await this.transport.request('PUT', `${this.#partsPath}/${String(k)}`, options, body));
  }

  /** Commits the next step, and counts it when its answer is complete. */
  protected commitParts<Result extends Reported>(
    parts: number,
    read: (answer: Answer, bytesSent: number) => Promise<Result>,
    options: RequestOptions,
  ): Promise<Result> {
    const content = JSON.stringify({ parts });
    return this.#step(async (n) => {
      // The number makes it the same commit, however often it is sent.
      const body = { contentType: 'application/json', content, isRepeatable: true };
      const path = `${this.path}/steps/${String(n)}/commit`;
      return { answer: await this.transport.request('POST', path, options, body), bytesSent: content.length };
    }, read);
  }

  /** Takes the reply of a step that another client has committed, and counts it. */
  protected takeReply<Result extends Reported>(
    read: (answer: Answer, bytesSent: number) => Promise<Result>,
    options: RequestOptions,
  ): Promise<Result> {
    return this.#step(async (n) => {
      const answer = await this.transport.request('GET', `${this.path}/steps/${String(n)}`, options);
      return { answer, bytesSent: 0 };
    }, read);
  }

  protected get path(): string {
    return `v1/sessions/${this.session.id}`;
  }

  /**
   * Sends the next step, and counts it when its answer is complete.
   *
   * @param encode makes the step's body, and may refuse the caller's input
   * @param read reads the answer; what it throws is a ConnectionError
   */
  protected takeStep<Result extends Reported>(
    encode: () => Uint8Array<ArrayBuffer>,
    read: (answer: Answer, bytesSent: number) => Promise<Result>,
    options: RequestOptions,
  ): Promise<Result> {
    return this.#step(async (n) => {
      const content = encode();
      const answer = await this.#sendStep(n, content, options);
      this.#replay.keep(n, content);
      return { answer, bytesSent: content.length };
    }, read);
  }

  /**
   * Has the service take steps by itself, and counts them.
   *
   * @param follow gets the first step's number, tells of every step that it hears of, and where the service stands at the end
   */
  protected async takeSteps<Result>(
    follow: (
      n: number,
      tell: { readonly taken: (metrics: StepMetrics) => void; readonly ended: (nextStep: number) => void },
    ) => Promise<Result>,
  ): Promise<Result> {
    if (this.#isStepping) throw new Error(BUSY);
    this.#isStepping = true;
    try {
      const { now } = this.transport.timing;
      let before = now();
      return await follow(this.#nextStep, {
        taken: (metrics) => {
          const record = { metrics, milliseconds: now() - before, bytesSent: 0, bytesReceived: 0 };
          before = now();
          this.#nextStep = metrics.step + 1;
          this.history.add(record);
          this.#settings.onStep?.(record);
        },
        ended: (nextStep) => {
          this.#nextStep = nextStep;
        },
      });
    } finally {
      this.#isStepping = false;
    }
  }

  async #step<Result extends Reported>(
    request: (n: number) => Promise<{ readonly answer: Answer; readonly bytesSent: number }>,
    read: (answer: Answer, bytesSent: number) => Promise<Result>,
  ): Promise<Result> {
    if (this.#isStepping) throw new Error(BUSY);
    this.#isStepping = true;
    try {
      const n = this.#nextStep;
      const { now } = this.transport.timing;
      const began = now();
      const { answer, bytesSent } = await request(n);
      const result = await complete(() => read(answer, bytesSent));
      this.#nextStep = n + 1;
      const record: StepRecord = {
        metrics: 'metrics' in result ? result.metrics : result,
        milliseconds: now() - began,
        bytesSent,
        bytesReceived: answer.length,
      };
      this.history.add(record);
      this.#settings.onStep?.(record);
      return result;
    } finally {
      this.#isStepping = false;
    }
  }

  /** Sends step n, and before it again those that the service has lost. @throws ReplayError if they are no longer held */
  async #sendStep(n: number, content: Uint8Array<ArrayBuffer>, options: RequestOptions): Promise<Answer> {
    for (let rewinds = 0; ; rewinds++) {
      try {
        return await this.#putStep(n, content, options);
      } catch (error) {
        if (!isRewound(error) || rewinds === MAXIMUM_REWINDS) throw error;
        await this.#replayUntil(n, error, options);
      }
    }
  }

  /** The replies are those that have been applied here already. */
  async #replayUntil(n: number, rewound: RewoundError, options: RequestOptions): Promise<void> {
    const { resumeFrom } = rewound.problem;
    for (let k = resumeFrom; k < n; k++) {
      const content = this.#replay.get(k);
      if (content === undefined) throw new ReplayError(resumeFrom, this.#replay.oldest, { cause: rewound });
      try {
        await this.#putStep(k, content, options);
      } catch (error) {
        // Somebody else has taken it meanwhile.
        if (!(error instanceof DdpnoptError) || error.code !== 'reply_not_retained') throw error;
      }
    }
  }

  #putStep(n: number, content: Uint8Array<ArrayBuffer>, options: RequestOptions): Promise<Answer> {
    const body = { contentType: SAFETENSORS_CONTENT_TYPE, content };
    return this.transport.request('PUT', `${this.path}/steps/${String(n)}`, options, body);
  }
}

type RewoundError = DdpnoptError & { readonly problem: { readonly resumeFrom: number } };

function isRewound(error: unknown): error is RewoundError {
  return error instanceof DdpnoptError && error.code === 'session_rewound' && error.problem.resumeFrom !== undefined;
}

function readParts(answer: Answer): Promise<StepParts> {
  return complete(async () => stepPartsSchema.parse(await answer.json()));
}

export function readSession(answer: Answer): Promise<Session> {
  return complete(async () => sessionSchema.parse(await answer.json()));
}
