/** An S3 server as a process of its own: s3rver, which keeps its buckets in a folder. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const BUCKET = 'ddpnopt';

export interface S3Server {
  /** The worker's settings for this server. */
  readonly settings: Readonly<Record<string, string>>;
  readonly storage: string;
  /** Holds it: requests wait, and nothing is written. */
  readonly suspend: () => void;
  readonly resume: () => void;
  /** Ends it; what it stores stays. */
  readonly end: () => Promise<void>;
  readonly restart: () => Promise<void>;
  /** Ends it, and removes what it stores. */
  readonly stop: () => Promise<void>;
}

export async function startS3Server(): Promise<S3Server> {
  const directory = mkdtempSync(join(tmpdir(), 'ddpnopt-s3-'));
  let server = await serve(directory, '0');
  const { port } = server;
  return {
    settings: {
      AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${port}`,
      AWS_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: 'S3RVER',
      AWS_SECRET_ACCESS_KEY: 'S3RVER',
    },
    storage: `s3://${BUCKET}/some/prefix`,
    suspend: () => {
      server.process.kill('SIGSTOP');
    },
    resume: () => {
      server.process.kill('SIGCONT');
    },
    end: () => end(server),
    restart: async () => {
      server = await serve(directory, port);
    },
    stop: async () => {
      await end(server);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

interface Serving {
  readonly process: ChildProcess;
  readonly port: string;
}

async function serve(directory: string, wanted: string): Promise<Serving> {
  const script = createRequire(import.meta.url).resolve('s3rver/bin/s3rver.js');
  const options = ['--directory', directory, '--address', '127.0.0.1', '--port', wanted, '--configure-bucket', BUCKET];
  // It makes the tokens of long lists with RC4.
  const server = spawn(process.execPath, ['--openssl-legacy-provider', script, ...options], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of createInterface({ input: server.stdout })) {
    const port = /127\.0\.0\.1[^0-9]+([0-9]+)/.exec(line)?.[1];
    if (port === undefined) continue;
    // What it writes to its log is not read any more.
    server.stdout.resume();
    return { process: server, port };
  }
  throw new Error('the S3 server did not start');
}

async function end({ process: server }: Serving): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  server.kill('SIGKILL');
  await once(server, 'exit');
}
