/** Serves on this machine until it is interrupted: what `npm start` and `ddpnopt serve` do. */
import { join, resolve } from 'node:path';
import * as z from 'zod';
import { logLevelSchema } from '../../shared/log-level.ts';
import { EDGE_RUNTIMES } from './edge.ts';
import { untilInterrupted } from './interrupt.ts';
import { describeEngine, startStack } from './stack.ts';

/** Keeps nothing. */
const IN_MEMORY = 'memory';
const S3_SCHEME = 's3://';

const port = z.coerce.number().int().min(0).max(65_535);

/** What can be set, by the name of its option. */
const settingsSchema = z.object({
  port: port.default(8787),
  'worker-port': port.default(8788),
  edge: z.enum(EDGE_RUNTIMES).default('workerd'),
  /** The worker knows which there are. */
  engine: z.string().min(1).optional(),
  storage: z.string().min(1).default('.ddpnopt'),
  'edge-state': z.string().min(1).optional(),
  'max-sessions': z.coerce.number().int().min(1).optional(),
  'log-level': logLevelSchema,
});

export type ServeSetting = keyof z.output<typeof settingsSchema>;

/** The environment's names for the same. */
export const SERVE_VARIABLES = {
  port: 'DDPNOPT_PORT',
  'worker-port': 'DDPNOPT_WORKER_PORT',
  edge: 'DDPNOPT_EDGE',
  engine: 'DDPNOPT_ENGINE',
  storage: 'DDPNOPT_STORAGE',
  'edge-state': 'DDPNOPT_EDGE_STATE',
  'max-sessions': 'DDPNOPT_MAX_SESSIONS',
  'log-level': 'DDPNOPT_LOG_LEVEL',
} as const satisfies Record<ServeSetting, string>;

/** A setting that is none; the message names it, its value, and what was expected. */
export class SettingError extends Error {
  override readonly name = 'SettingError';
}

export interface RunningService {
  /** Where clients find it. */
  readonly url: string;
  readonly engine: string;
  /** Where sessions and checkpoints are kept; null for memory alone. */
  readonly storage: string | null;
  /** What there is to say about it, in lines. */
  readonly description: string;
  /** Resolves when it has been interrupted and has stopped. @throws Error with the reason if it ends otherwise */
  readonly untilStopped: () => Promise<void>;
}

/**
 * Starts worker and edge. From then on Ctrl-C and SIGTERM stop them, also while they start.
 *
 * @param given what an option says; else the environment's variable decides, else the default
 * @param onProgress says in a line how far it is
 * @returns null if it was interrupted before it served
 * @throws SettingError; Error with the process's own words if one does not start
 */
export async function serve(
  given: Readonly<Partial<Record<ServeSetting, string>>>,
  onProgress: (line: string) => void,
): Promise<RunningService | null> {
  const settings = readSettings(given);
  const { engine, edge } = settings;
  const storage = settings.storage === IN_MEMORY ? undefined : placeOf(settings.storage);
  // In a bucket there is no place for it.
  const beside = storage === undefined || storage.startsWith(S3_SCHEME) ? undefined : join(storage, 'edge');
  const interruption = new AbortController();
  const interrupted = untilInterrupted().then(() => {
    interruption.abort();
    onProgress('stopping …');
    return null;
  });
  const stack = await startStack({
    edgePort: settings.port,
    workerPort: settings['worker-port'],
    edge,
    edgeState: settings['edge-state'] ?? beside,
    engine,
    storage,
    maximumSessions: settings['max-sessions'],
    logLevel: settings['log-level'],
    onProgress,
  });
  if (interruption.signal.aborted) {
    await stack.stop();
    return null;
  }
  const description = [
    `DDPNOpt serves at ${stack.url}, ${describeEngine(stack, engine !== undefined)}`,
    `  API for people    ${stack.url}/docs`,
    `  API for programs  ${stack.url}/openapi.json`,
    storage === undefined
      ? 'Sessions and checkpoints live in memory and end with the process.'
      : `Sessions and checkpoints are kept in ${storage} and go on after a restart or a crash.`,
    'Ctrl-C stops it.',
  ].join('\n');
  const untilStopped = async (): Promise<void> => {
    const reason = await Promise.race([interrupted, stack.failed]);
    await stack.stop();
    if (reason !== null) throw new Error(reason);
  };
  return { url: stack.url, engine: stack.engine, storage: storage ?? null, description, untilStopped };
}

function placeOf(storage: string): string {
  return storage.startsWith(S3_SCHEME) ? storage : resolve(storage);
}

function readSettings(given: Readonly<Partial<Record<ServeSetting, string>>>): z.output<typeof settingsSchema> {
  const names = Object.keys(SERVE_VARIABLES) as ServeSetting[];
  const values = names.map((name) => [name, given[name] ?? process.env[SERVE_VARIABLES[name]]] as const);
  const parsed = settingsSchema.safeParse(Object.fromEntries(values));
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map(({ path: [field], message }) => {
    const name = field as ServeSetting;
    const source = given[name] === undefined ? SERVE_VARIABLES[name] : `--${name}`;
    return `${source} is ${JSON.stringify(given[name] ?? process.env[SERVE_VARIABLES[name]])}: ${message}`;
  });
  throw new SettingError(faults.join('\n'));
}
