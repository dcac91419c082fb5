/** A session's events as a body that goes on until the session ends or nobody reads it any more. */
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { formatEvent, HEARTBEAT, type SessionEvent } from '../../shared/session-events.ts';
import type { TrainingSession } from '../session/session.ts';

export class EventStreams {
  readonly #heartbeatMilliseconds: number;
  #open = 0;

  /** @param heartbeatMilliseconds between two comments */
  constructor(heartbeatMilliseconds: number) {
    this.#heartbeatMilliseconds = heartbeatMilliseconds;
  }

  /**
   * @param after the last step that the reader knows of; null for events from now on
   * @throws ProblemError `listeners_full`
   */
  open(
    session: Pick<TrainingSession, 'listeners' | 'listen'>,
    after: number | null,
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
          let ignore = (): void => undefined;
          close = () => {
            if (isClosed) return;
            isClosed = true;
            this.#open--;
            clearInterval(heartbeat);
            ignore();
          };
          const end = (event: SessionEvent): void => {
            send(formatEvent(event));
            close();
            controller.close();
          };
          const listener = (event: SessionEvent): void => {
            if (isClosed) return;
            if (event.event === 'end') end(event);
            // What is not read is kept here: a bounded amount of it.
            else if ((controller.desiredSize ?? 0) <= 0) end({ event: 'end', data: { reason: 'slow' } });
            else send(formatEvent(event));
          };
          const heartbeat = setInterval(() => {
            if ((controller.desiredSize ?? 0) > 0) send(HEARTBEAT);
          }, this.#heartbeatMilliseconds);
          // The head of the answer goes out with the first bytes.
          send(HEARTBEAT);
          ignore = session.listen(after, listener);
        },
        cancel: () => {
          close();
        },
      },
      { highWaterMark: LIMITS.eventBufferBytes, size: (chunk) => chunk.byteLength },
    );
  }
}
