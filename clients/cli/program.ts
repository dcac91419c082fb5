/** The command line as a program: finds the command, runs it, prints what it found, explains what went wrong. */
import { parseArgs } from 'node:util';
import { ConnectionError, DdpnoptError } from '../js/errors.ts';
import { DdpnoptClient } from '../js/client.ts';
import { Transport, type TransportOptions } from '../js/transport.ts';
import { CommandError, UsageError, type Command, type CommandResult, type LocalContext } from './command.ts';
import { helpOf, overview, usageOf } from './help.ts';

const DEFAULT_URL = 'http://127.0.0.1:8787';

const EXIT = { refused: 1, usage: 2, unreachable: 3, interrupted: 130 } as const;

const COMMON = { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } as const;
const OF_A_SERVICE = { ...COMMON, url: { type: 'string' } } as const;

/** Does what the arguments of this process say, and sets its exit code. */
export async function runProgram(commands: readonly Command[]): Promise<void> {
  try {
    await main(commands, process.argv.slice(2));
  } catch (error) {
    process.exitCode = explain(error);
  }
}

async function main(commands: readonly Command[], line: readonly string[]): Promise<void> {
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
  const { document, text, goOn } = await run(command, {
    progress: (progress) => process.stderr.write(`${progress}\n`),
    options: values,
    arguments: Object.fromEntries(command.arguments.map((name, index) => [name, positionals[index] ?? ''])),
  });
  print(values['json'] === true ? JSON.stringify(document) : text);
  await goOn?.();
}

function run(command: Command, context: LocalContext): Promise<CommandResult> {
  if (command.kind === 'local') return command.run(context);
  const options = connection(context.options['url']);
  const service = new Transport(options);
  const client = new DdpnoptClient(options);
  // Only a command that asks for it: the others Ctrl-C ends as ever.
  return command.run({
    ...context,
    service,
    client,
    get signal() {
      return interruption();
    },
  });
}

/** Aborts at the first Ctrl-C or SIGTERM; the second one ends the process as ever. */
function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      controller.abort(new Interruption());
    });
  }
  return controller.signal;
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

function connection(given: string | boolean | undefined): TransportOptions {
  const { DDPNOPT_URL, DDPNOPT_API_KEY, DDPNOPT_ADMIN_KEY } = process.env;
  const url = typeof given === 'string' ? given : (DDPNOPT_URL ?? DEFAULT_URL);
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
    throw new UsageError(`the service’s address is ${JSON.stringify(url)}; one as ${DEFAULT_URL} was expected`);
  }
  // Somebody waits at the terminal.
  return { url, apiKey: DDPNOPT_API_KEY ?? DDPNOPT_ADMIN_KEY, retry: { attempts: 3 } };
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Says what went wrong and what to do. @returns the exit code */
function explain(error: unknown): number {
  if (error instanceof UsageError) {
    process.stderr.write(`${error.message}\nddpnopt --help says what there is\n`);
    return EXIT.usage;
  }
  if (error instanceof Interruption) return EXIT.interrupted;
  if (error instanceof CommandError) {
    process.stderr.write(`${error.message}\n`);
    return EXIT.refused;
  }
  if (error instanceof DdpnoptError) {
    const { detail, remedy, code, request_id: requestId } = error.problem;
    process.stderr.write(`${detail}\n${remedy}\n${unauthenticatedHint(code)}(${code}, request ${requestId})\n`);
    return EXIT.refused;
  }
  if (error instanceof ConnectionError) {
    process.stderr.write(
      `${error.message}\nStart the service (ddpnopt serve), or say where it is with --url or DDPNOPT_URL.\n`,
    );
    return EXIT.unreachable;
  }
  throw error;
}

function unauthenticatedHint(code: string): string {
  return code === 'unauthenticated'
    ? 'This command sends the key in DDPNOPT_API_KEY, or else in DDPNOPT_ADMIN_KEY.\n'
    : '';
}
