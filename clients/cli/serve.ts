/** ddpnopt serve: the service on this machine. */
import { serve, SERVE_VARIABLES, SettingError, type ServeSetting } from '../../deploy/local/serve.ts';
import {
  CommandError,
  textOf,
  UsageError,
  type CommandOption,
  type LocalCommand,
  type LocalContext,
} from './command.ts';

const OPTIONS: Readonly<Record<ServeSetting, { readonly value: string; readonly description: string }>> = {
  port: { value: 'PORT', description: 'of the edge, which clients speak to; 0 takes a free one; 8787' },
  'worker-port': { value: 'PORT', description: 'of the worker, which computes; 8788' },
  edge: { value: 'RUNTIME', description: 'what the edge runs in: workerd, as on Cloudflare, or node; workerd' },
  engine: { value: 'ENGINE', description: 'tensorflow, wasm or reference; the fastest that there is' },
  storage: {
    value: 'PLACE',
    description: 'folder, or s3://bucket/prefix, that sessions and checkpoints survive in; "memory" for none; .ddpnopt',
  },
  'edge-state': {
    value: 'FOLDER',
    description: 'that API keys and usage survive in; "edge" in the storage, where that is a folder',
  },
  'max-sessions': { value: 'N', description: 'sessions held at once; 64' },
  'log-level': {
    value: 'LEVEL',
    description: 'info: a line for every request; warn: for those that the service failed; warn',
  },
};

export const serveCommand: LocalCommand = {
  kind: 'local',
  name: 'serve',
  summary: 'Start the service on this machine, edge and worker; Ctrl-C stops it',
  arguments: [],
  options: Object.fromEntries(
    settingNames().map((name): [string, CommandOption] => {
      const { value, description } = OPTIONS[name];
      return [name, { type: 'string', value, description: `${description} (${SERVE_VARIABLES[name]})` }];
    }),
  ),
  examples: [
    'ddpnopt serve',
    'ddpnopt serve --port 9000 --storage ~/ddpnopt-sessions',
    'ddpnopt serve --port 0 --storage memory --json',
    'DDPNOPT_ADMIN_KEY=… ddpnopt serve --log-level info',
  ],
  run: async (context) => {
    const given = settingNames().map((name) => [name, textOf(context, name)] as const);
    const service = await start(Object.fromEntries(given.filter(([, text]) => text !== undefined)), context);
    if (service === null) return { document: null, text: 'It was stopped before it served.' };
    const { url, engine, storage, description, untilStopped } = service;
    return { document: { url, engine, storage }, text: description, goOn: () => untilStopped().catch(unsuccessful) };
  },
};

function settingNames(): ServeSetting[] {
  return Object.keys(OPTIONS) as ServeSetting[];
}

function start(given: Parameters<typeof serve>[0], { progress }: LocalContext): ReturnType<typeof serve> {
  return serve(given, progress).catch((error: unknown) => {
    if (error instanceof SettingError) throw new UsageError(error.message, { cause: error });
    return unsuccessful(error);
  });
}

/** @throws CommandError with what the process said that did not start, or ended */
function unsuccessful(error: unknown): never {
  throw new CommandError(error instanceof Error ? error.message : String(error), { cause: error });
}
