/** A worker's answer on its way to the client, which ends with the worker if it must. */
import type { HttpBindings } from '@hono/node-server';
import type { Platform } from '../../edge/environment.ts';

/** As `Platform.relayed`: the server would break off the connection, too, but print the error's stack beside all that is logged. */
export const relayedHere: Platform['relayed'] = <Chunk>(
  answer: ReadableStream<Chunk>,
  connection: unknown,
  report: (error: unknown) => void,
) => {
  // What @hono/node-server gives with every request.
  const { outgoing } = connection as HttpBindings;
  const reader = answer.getReader();
  return new ReadableStream<Chunk>(
    {
      pull: async (controller) => {
        try {
          const { done, value } = await reader.read();
          if (done) controller.close();
          else controller.enqueue(value);
        } catch (error) {
          if (outgoing.destroyed) return;
          report(error);
          outgoing.destroy();
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
};
