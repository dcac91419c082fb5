/** Resolves at the first Ctrl-C or SIGTERM; from then on the process is expected to stop its children and end by itself. */
export function untilInterrupted(): Promise<'interrupted'> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.on(signal, () => {
        resolve('interrupted');
      });
    }
  });
}
