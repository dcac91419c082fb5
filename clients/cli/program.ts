/** The command line as a program: finds the command, runs it, prints what it found, explains what went wrong. */
import { parseArgs } from 'node:util';
import { ConnectionError, DdpnoptError } from '../js/errors.ts';
import { DdpnoptClient } from '../js/client.ts';
import { Transport, type TransportOptions } from '../js/transport.ts';
import { CommandError, UsageError, type Command, type CommandResult, type LocalContext } from './command.ts';
import { CLOSED_PIPE_EXIT, whenNobodyReads } from './closed-pipe.ts';
import { helpOf, overview, usageOf } from './help.ts';

const DEFAULT_URL = 'http://127.0.0.1:8787';

const EXIT = { done: 0, refused: 1, usage: 2, unreachable: 3, interrupted: 130 } as const;

const COMMON = { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } as const;
const OF_A_SERVICE = { ...COMMON, url: { type: 'string' } } as const;

/** What a program is given, and where it writes. */
export interface Terminal {
  /** The arguments behind the program's name. */
  readonly line: readonly string[];
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  /** Asked for by commands that have something to clear up: aborted when they are to end. */
  readonly interruption: () => AbortSignal;
}

/** Does what the arguments of this process say, and sets its exit code. */
export async function runProgram(commands: readonly Command[]): Promise<void> {
  let interrupted: AbortController | null = null;
  const end = (): void => {
    if (interrupted === null) process.exit(CLOSED_PIPE_EXIT);
    interrupted.abort(new Interruption());
  };
  whenNobodyReads(end);
  process.exitCode = await execute(commands, {
    line: process.argv.slice(2),
    environment: process.env,
    stdout: (text) => process.stdout.write(text),
    stderr: (text) => process.stderr.write(text),
    interruption: () => {
      interrupted ??= new AbortController();
      // The second one ends the process as ever.
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end);
      return interrupted.signal;
    },
  });
}

/** Does what a line says. @returns the exit code */
export async function execute(commands: readonly Command[], terminal: Terminal): Promise<number> {
  try {
    await main(commands, terminal);
    return EXIT.done;
  } catch (error) {
    return explain(error, terminal);
  }
}

async function main(commands: readonly Command[], terminal: Terminal): Promise<void> {
  const { line } = terminal;
  const print = (text: string): void => {
    terminal.stdout(`${text}\n`);
  };
  const command = commandOf(commands, line);
  if (command === null) {
    if (line.some((word) => word === '--help' || word === '-h' || word === 'help') || line.length === 0) {
      print(overview(commands));
      return;
    }
    throw new UsageError(
      `there is no command "${line
        .filter((word) => !word.startsWith('-'))
        .slice(0, 2)
        .join(' ')}"`,
    );
  }
  const words = command.name.split(' ').length;
  const { values, positionals } = parsed(command, line.slice(words));
  if (values['help'] === true) {
    print(helpOf(command));
    return;
  }
  if (positionals.length !== command.arguments.length) {
    throw new UsageError(`ddpnopt ${usageOf(command)}: ${String(positionals.length)} arguments were given`);
  }
  for (const [name, { isRequired }] of Object.entries(command.options)) {
    if (isRequired === true && values[name] === undefined) throw new UsageError(`--${name} is missing`);
  }
  const { document, text, goOn } = await run(command, terminal, {
    progress: (progress) => {
      terminal.stderr(`${progress}\n`);
    },
    options: values,
    arguments: Object.fromEntries(command.arguments.map((name, index) => [name, positionals[index] ?? ''])),
  });
  print(values['json'] === true ? JSON.stringify(document) : text);
  await goOn?.();
}

function run(command: Command, terminal: Terminal, context: LocalContext): Promise<CommandResult> {
  if (command.kind === 'local') return command.run(context);
  const options = connection(context.options['url'], terminal.environment);
  const service = new Transport(options);
  const client = new DdpnoptClient(options);
  // Only a command that asks for it: the others Ctrl-C ends as ever.
  return command.run({
    ...context,
    service,
    client,
    get signal() {
      return terminal.interruption();
    },
  });
}

class Interruption extends Error {
  override readonly name = 'Interruption';
}

/** The command that the line begins with. */
function commandOf(commands: readonly Command[], line: readonly string[]): Command | null {
  const begins = (name: string): boolean => name.split(' ').every((word, index) => line[index] === word);
  return commands.find(({ name }) => begins(name)) ?? null;
}

function parsed(
  command: Command,
  line: readonly string[],
): { values: Record<string, string | boolean | undefined>; positionals: string[] } {
  const own = Object.entries(command.options).map(([name, { type }]) => [name, { type }] as const);
  try {
    const { values, positionals } = parseArgs({
      args: [...line],
      options: { ...(command.kind === 'local' ? COMMON : OF_A_SERVICE), ...Object.fromEntries(own) },
      allowPositionals: true,
    });
    return { values, positionals };
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error), { cause: error });
  }
}

function connection(
  given: string | boolean | undefined,
  { DDPNOPT_URL, DDPNOPT_API_KEY, DDPNOPT_ADMIN_KEY }: Terminal['environment'],
): TransportOptions {
  const url = typeof given === 'string' ? given : (DDPNOPT_URL ?? DEFAULT_URL);
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
    throw new UsageError(`the service’s address is ${JSON.stringify(url)}; one as ${DEFAULT_URL} was expected`);
  }
  // Somebody waits at the terminal.
  return { url, apiKey: DDPNOPT_API_KEY ?? DDPNOPT_ADMIN_KEY, retry: { attempts: 3 } };
}

/** Says what went wrong and what to do. @returns the exit code */
function explain(error: unknown, { stderr }: Terminal): number {
  if (error instanceof UsageError) {
    stderr(`${error.message}\nddpnopt --help says what there is\n`);
    return EXIT.usage;
  }
  if (error instanceof Interruption) return EXIT.interrupted;
  if (error instanceof CommandError) {
    stderr(`${error.message}\n`);
    return EXIT.refused;
  }
  if (error instanceof DdpnoptError) {
    const { detail, remedy, code, request_id: requestId } = error.problem;
    stderr(`${detail}\n${remedy}\n${unauthenticatedHint(code)}(${code}, request ${requestId})\n`);
    return EXIT.refused;
  }
  if (error instanceof ConnectionError) {
    stderr(`${error.message}\nStart the service (ddpnopt serve), or say where it is with --url or DDPNOPT_URL.\n`);
    return EXIT.unreachable;
  }
  throw error;
}

function unauthenticatedHint(code: string): string {
  return code === 'unauthenticated'
    ? 'This command sends the key in DDPNOPT_API_KEY, or else in DDPNOPT_ADMIN_KEY.\n'
    : '';
}
