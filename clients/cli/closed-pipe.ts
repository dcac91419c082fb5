/** What a program does that nobody reads any more, as in `ddpnopt … | head`: Node ignores the signal that ends others. */

/** Of a program that SIGPIPE ends: 128 and the signal's number. */
export const CLOSED_PIPE_EXIT = 141;

/** Has the process end in its own way, and without a word, when what it writes to is closed. */
export function whenNobodyReads(end: () => void): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      end();
    });
  }
}
