/** A session as a client holds it, in either mode: its description and the number of its next step. */
import { checkpointListSchema, checkpointSchema, type Checkpoint } from '../../shared/checkpoint.ts';
import { MERGE_PATCH_CONTENT_TYPE, type SessionChanges } from '../../shared/session-changes.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { stepPartsSchema, type StepParts } from '../../shared/step-parts.ts';
import { sessionSchema, type Session } from '../../shared/session.ts';
import { ConnectionError } from './errors.ts';
import { listen, type EventOptions, type TrainingEvent } from './events.ts';
import { complete, type RequestOptions, type Transport } from './transport.ts';

export abstract class ClientSession<Description extends Session> {
  #session: Description;
  protected readonly transport: Transport;
  #nextStep: number;
  #isStepping = false;

  constructor(transport: Transport, session: Description) {
    this.transport = transport;
    this.#session = session;
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
  protected commitParts<Result>(
    parts: number,
    read: (answer: Response, bytesSent: number) => Promise<Result>,
    options: RequestOptions,
  ): Promise<Result> {
    const content = JSON.stringify({ parts });
    return this.#step(
      (n) => {
        const body = { contentType: 'application/json', content };
        return this.transport.request('POST', `${this.path}/steps/${String(n)}/commit`, options, body);
      },
      (answer) => read(answer, content.length),
    );
  }

  /** Takes the reply of a step that another client has committed, and counts it. */
  protected takeReply<Result>(
    read: (answer: Response, bytesSent: number) => Promise<Result>,
    options: RequestOptions,
  ): Promise<Result> {
    return this.#step(
      (n) => this.transport.request('GET', `${this.path}/steps/${String(n)}`, options),
      (answer) => read(answer, 0),
    );
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
  protected async takeStep<Result>(
    encode: () => Uint8Array<ArrayBuffer>,
    read: (answer: Response, bytesSent: number) => Promise<Result>,
    options: RequestOptions,
  ): Promise<Result> {
    let sent = 0;
    return this.#step(
      (n) => {
        const content = encode();
        sent = content.length;
        const body = { contentType: SAFETENSORS_CONTENT_TYPE, content };
        return this.transport.request('PUT', `${this.path}/steps/${String(n)}`, options, body);
      },
      (answer) => read(answer, sent),
    );
  }

  async #step<Result>(
    request: (n: number) => Promise<Response>,
    read: (answer: Response) => Promise<Result>,
  ): Promise<Result> {
    if (this.#isStepping) throw new Error('the session is taking a step; wait for its reply before the next one');
    this.#isStepping = true;
    try {
      const n = this.#nextStep;
      const answer = await request(n);
      const result = await complete(() => read(answer));
      this.#nextStep = n + 1;
      return result;
    } finally {
      this.#isStepping = false;
    }
  }
}

function readParts(answer: Response): Promise<StepParts> {
  return complete(async () => stepPartsSchema.parse(await answer.json()));
}

export function readSession(answer: Response): Promise<Session> {
  return complete(async () => sessionSchema.parse(await answer.json()));
}
