/**
 * A pipe whose writer is let go as soon as it aborts, whether anybody reads or not. A TransformStream's writer would wait for a
 * reader first, and Node's fetch that finds no connection leaves its body unread.
 */
export function openPipe(): {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
} {
  let source: ReadableStreamDefaultController<Uint8Array> | undefined;
  /** Settles when the reader wants a chunk, or the pipe ends. */
  let wanted = turn();
  const readable = new ReadableStream<Uint8Array>(
    {
      start: (controller) => {
        source = controller;
      },
      pull: () => {
        wanted.resolve();
      },
      cancel: (reason) => {
        wanted.reject(reason);
      },
    },
    { highWaterMark: 0 },
  );
  const writable = new WritableStream<Uint8Array>({
    start: ({ signal }) => {
      signal.addEventListener('abort', () => {
        wanted.reject(signal.reason);
      });
    },
    write: async (chunk) => {
      await wanted.promise;
      wanted = turn();
      source?.enqueue(chunk);
    },
    close: () => {
      source?.close();
    },
    abort: (reason) => {
      source?.error(reason);
    },
  });
  return { readable, writable };
}

function turn(): PromiseWithResolvers<void> {
  const resolvers = Promise.withResolvers<void>();
  // The pipe may end while nobody writes.
  resolvers.promise.catch(() => undefined);
  return resolvers;
}
