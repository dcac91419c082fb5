/** Events of a session, or of one of its runs, as a body that goes on until that ends or nobody reads it any more. */
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { formatRunEvent, type RunEvent } from '../../shared/run.ts';
import { HEARTBEAT } from '../../shared/session-events.ts';
import type { TrainingSession } from '../session/session.ts';

export class EventStreams {
  readonly #heartbeatMilliseconds: number;
  #open = 0;

  /** @param heartbeatMilliseconds between two comments */
  constructor(heartbeatMilliseconds: number) {
    this.#heartbeatMilliseconds = heartbeatMilliseconds;
  }

  /**
   * @param listen has a listener told of the events, until what it returns is called
   * @throws ProblemError `listeners_full`
   */
  open(
    session: Pick<TrainingSession, 'listeners'>,
    listen: (listener: (event: RunEvent) => void) => () => void,
  ): ReadableStream<Uint8Array<ArrayBuffer>> {
    if (session.listeners >= LIMITS.sessionListeners || this.#open >= LIMITS.listeners) {
      throw new ProblemError('listeners_full', {
        detail: `${String(session.listeners)} are listening to this session, ${String(this.#open)} to all of this worker; the most are ${String(LIMITS.sessionListeners)} and ${String(LIMITS.listeners)}.`,
        remedy: 'Close listeners that are not needed, or GET the session now and then.',
      });
    }
    this.#open++;
    let close = (): void => undefined;
    return new ReadableStream(
      {
        start: (controller) => {
          const encoder = new TextEncoder();
          const send = (text: string): void => {
            controller.enqueue(encoder.encode(text));
          };
          let isClosed = false;
          const hasEnded = (): boolean => isClosed;
          let ignore = (): void => undefined;
          close = () => {
            if (isClosed) return;
            isClosed = true;
            this.#open--;
            clearInterval(heartbeat);
            ignore();
          };
          const end = (event: RunEvent): void => {
            send(formatRunEvent(event));
            close();
            controller.close();
          };
          const listener = (event: RunEvent): void => {
            if (isClosed) return;
            if (isLast(event)) end(event);
            // What is not read is kept here: a bounded amount of it.
            else if ((controller.desiredSize ?? 0) <= 0) end({ event: 'end', data: { reason: 'slow' } });
            else send(formatRunEvent(event));
          };
          const heartbeat = setInterval(() => {
            if ((controller.desiredSize ?? 0) > 0) send(HEARTBEAT);
          }, this.#heartbeatMilliseconds);
          // The head of the answer goes out with the first bytes.
          send(HEARTBEAT);
          ignore = listen(listener);
          // What has ended already ends while it is listened to.
          if (hasEnded()) ignore();
        },
        cancel: () => {
          close();
        },
      },
      { highWaterMark: LIMITS.eventBufferBytes, size: (chunk) => chunk.byteLength },
    );
  }
}

function isLast({ event, data }: RunEvent): boolean {
  return event === 'end' || (event === 'run' && data.state !== 'running');
}
