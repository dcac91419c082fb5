/** Requests as fast as a client can send them, and how long each takes. */
import { Agent, request } from 'node:http';

export interface Target {
  readonly url: string;
  readonly method: 'PUT' | 'POST';
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
}

export interface Measured {
  /** Milliseconds of each request, from its first byte to the last of the answer. */
  readonly latencies: readonly number[];
  /** Seconds that all of them took together. */
  readonly seconds: number;
}

/** Connections that stay open, as a client's do. */
export function openConnections(count: number): Agent {
  return new Agent({ keepAlive: true, maxSockets: count });
}

/** @throws Error if it is not answered with a success */
function send({ url, method, body, headers }: Target, agent: Agent): Promise<void> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      { method, agent, headers: { ...headers, 'content-length': body.length } },
      (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.on('error', reject);
        answer.on('end', () => {
          const status = answer.statusCode ?? 0;
          if (status >= 200 && status < 300) resolve();
          else reject(new Error(`${url} answered ${String(status)}: ${Buffer.concat(chunks).toString()}`));
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

/** Sends so many requests, so many of them at a time. */
export async function sendMany(targets: readonly Target[], atATime: number, agent: Agent): Promise<Measured> {
  const latencies: number[] = [];
  const began = performance.now();
  let next = 0;
  const sender = async (): Promise<void> => {
    for (let target = targets[next++]; target !== undefined; target = targets[next++]) {
      const from = performance.now();
      await send(target, agent);
      latencies.push(performance.now() - from);
    }
  };
  await Promise.all(Array.from({ length: atATime }, sender));
  return { latencies, seconds: (performance.now() - began) / 1000 };
}
