/** A session as a client holds it, in either mode: its description and the number of its next step. */
import { checkpointListSchema, checkpointSchema, type Checkpoint } from '../../shared/checkpoint.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { sessionSchema, type Session } from '../../shared/session.ts';
import { complete, type RequestOptions, type Transport } from './transport.ts';

export abstract class ClientSession<Description extends Session> {
  /** As the service described it when it was created or opened. */
  readonly session: Description;
  protected readonly transport: Transport;
  #nextStep: number;
  #isStepping = false;

  constructor(transport: Transport, session: Description) {
    this.transport = transport;
    this.session = session;
    this.#nextStep = session.nextStep;
  }

  get nextStep(): number {
    return this.#nextStep;
  }

  /** Goes on at the step the service expects, after one whose outcome is unknown. @throws DdpnoptError, ConnectionError */
  async resynchronise(options: RequestOptions = {}): Promise<void> {
    const { nextStep } = await this.describe(options);
    this.#nextStep = nextStep;
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
    if (this.#isStepping) throw new Error('the session is taking a step; wait for its reply before the next one');
    this.#isStepping = true;
    try {
      const n = this.#nextStep;
      const content = encode();
      const body = { contentType: SAFETENSORS_CONTENT_TYPE, content };
      const answer = await this.transport.request('PUT', `${this.path}/steps/${String(n)}`, options, body);
      const result = await complete(() => read(answer, content.length));
      this.#nextStep = n + 1;
      return result;
    } finally {
      this.#isStepping = false;
    }
  }
}

export function readSession(answer: Response): Promise<Session> {
  return complete(async () => sessionSchema.parse(await answer.json()));
}
