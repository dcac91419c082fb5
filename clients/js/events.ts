/** Steps of a session, or of one of its runs, as they happen, read from a stream of server-sent events. */
import { LIMITS } from '../../shared/limits.ts';
import { runEventSchema, type RunEvent } from '../../shared/run.ts';
import { EVENT_STREAM_CONTENT_TYPE, type SessionEvent } from '../../shared/session-events.ts';
import { ConnectionError, DdpnoptError } from './errors.ts';
import { wait, type Timing } from './retry.ts';
import type { RequestOptions, Transport } from './transport.ts';

export interface EventOptions extends Pick<RequestOptions, 'signal'> {
  /** The last step that is known: those after it come first, as far as they are kept; -1 for all. Left out, events from now on. */
  readonly after?: number;
}

/** A step's metrics; or steps whose metrics are not kept any more. */
export type TrainingEvent = Exclude<SessionEvent, { event: 'end' }>;

/** The same of a run, and the run itself at first and at last. */
type FollowedEvent = Exclude<RunEvent, { event: 'end' }>;

/** Attempts to connect again, one after the other, before it is given up. */
const ATTEMPTS = 6;
const FIRST_WAIT_MILLISECONDS = 200;
/** After which a stream counts as broken in which not even comments come: its worker hangs, or the network to it is gone. */
const SILENCE_MILLISECONDS = 3 * LIMITS.heartbeatMilliseconds;

/**
 * Listens until the session ends, and connects again where the connection breaks.
 *
 * @throws DdpnoptError if the service refuses; ConnectionError if it cannot be reached; the signal's reason
 */
export async function* listen(
  transport: Transport,
  path: string,
  options: EventOptions,
): AsyncGenerator<TrainingEvent, void> {
  for await (const event of follow(transport, path, options)) if (event.event !== 'run') yield event;
}

/** As {@link listen}, until the run ends, where the path is a run's. */
export async function* follow(
  transport: Transport,
  path: string,
  { after, signal }: EventOptions,
): AsyncGenerator<FollowedEvent, void> {
  let last = after;
  for (let failures = 0; ;) {
    try {
      const headers = {
        accept: EVENT_STREAM_CONTENT_TYPE,
        ...(last === undefined ? {} : { 'last-event-id': String(last) }),
      };
      const answer = await transport.stream(path, signal === undefined ? {} : { signal }, headers);
      for await (const event of readEvents(answer, transport.timing)) {
        failures = 0;
        if (event.event === 'end') {
          if (event.data.reason === 'deleted' || event.data.reason === 'expired') return;
          break;
        }
        if (event.event === 'step') last = event.data.step;
        else if (event.event === 'missed') last = event.data.to;
        yield event;
        if (event.event === 'run' && event.data.state !== 'running') return;
      }
    } catch (error) {
      if (signal?.aborted === true) throw signal.reason;
      const isPassing = error instanceof ConnectionError || (error instanceof DdpnoptError && error.problem.retryable);
      if (!isPassing || ++failures >= ATTEMPTS) throw error;
    }
    const { timing } = transport;
    await wait(timing, FIRST_WAIT_MILLISECONDS * 2 ** failures * (0.5 + timing.random()), signal);
  }
}

/** The events of one answer. @throws ConnectionError if it breaks off, falls silent, or is not of the service's form */
async function* readEvents(answer: Response, timing: Timing): AsyncGenerator<RunEvent, void> {
  if (answer.body === null || !(answer.headers.get('content-type') ?? '').startsWith(EVENT_STREAM_CONTENT_TYPE)) {
    throw new ConnectionError('the answer is no stream of events');
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await unlessSilent(timing, reader.read());
      if (done) return;
      const blocks = (text + value).split('\n\n');
      text = blocks.pop() ?? '';
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event !== null) yield event;
      }
    }
  } catch (cause) {
    if (cause instanceof ConnectionError) throw cause;
    throw new ConnectionError('the stream of events broke off', { cause });
  } finally {
    // Whoever stops reading is not sent any more. The connection may be gone already.
    await reader.cancel().catch(() => undefined);
  }
}

/** What is read, if something comes in time. @throws ConnectionError */
async function unlessSilent<Result>(timing: Timing, reading: Promise<Result>): Promise<Result> {
  let callOff = (): void => undefined;
  const silence = new Promise<never>((_, reject) => {
    callOff = timing.schedule(SILENCE_MILLISECONDS, () => {
      reject(new ConnectionError(`nothing has come for ${String(SILENCE_MILLISECONDS)} ms`));
    });
  });
  try {
    return await Promise.race([reading, silence]);
  } finally {
    callOff();
  }
}

/** Null for a comment. */
function parseEvent(block: string): RunEvent | null {
  const fields = new Map(block.split('\n').map((line) => [line.split(':', 1)[0] ?? '', line.replace(/^[^:]*: ?/, '')]));
  const event = fields.get('event');
  if (event === undefined) return null;
  const data: unknown = JSON.parse(fields.get('data') ?? 'null');
  const parsed = runEventSchema.safeParse({ event, data });
  if (parsed.success) return parsed.data;
  throw new ConnectionError(`the event "${event}" is not of the service's form`, { cause: parsed.error });
}
