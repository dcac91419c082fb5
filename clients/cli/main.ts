#!/usr/bin/env node
/** ddpnopt: training, estimates, sessions, usage, keys, limits and workers from the command line. */
import { parseArgs } from 'node:util';
import { ConnectionError, DdpnoptError } from '../js/errors.ts';
import { DdpnoptClient } from '../js/client.ts';
import { Transport, type TransportOptions } from '../js/transport.ts';
import { UsageError, type Command } from './command.ts';
import { helpOf, overview, usageOf } from './help.ts';
import { OPERATOR_COMMANDS } from './operator.ts';
import { TENANT_COMMANDS } from './tenant.ts';
import { TRAINING_COMMANDS } from './training.ts';

const COMMANDS: readonly Command[] = [...TRAINING_COMMANDS, ...TENANT_COMMANDS, ...OPERATOR_COMMANDS];
const DEFAULT_URL = 'http://127.0.0.1:8787';

const EXIT = { refused: 1, usage: 2, unreachable: 3 } as const;

const COMMON = { url: { type: 'string' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } as const;

async function main(line: readonly string[]): Promise<void> {
  const command = commandOf(line);
  if (command === null) {
    if (line.some((word) => word === '--help' || word === '-h' || word === 'help') || line.length === 0) {
      print(overview(COMMANDS));
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
  const options = connection(values['url']);
  const named = Object.fromEntries(command.arguments.map((name, index) => [name, positionals[index] ?? '']));
  const { document, text } = await command.run({
    service: new Transport(options),
    client: new DdpnoptClient(options),
    progress: (line) => process.stderr.write(`${line}\n`),
    options: values,
    arguments: named,
  });
  print(values['json'] === true ? JSON.stringify(document) : text);
}

/** The command that the line begins with. */
function commandOf(line: readonly string[]): Command | null {
  const begins = (name: string): boolean => name.split(' ').every((word, index) => line[index] === word);
  return COMMANDS.find(({ name }) => begins(name)) ?? null;
}

function parsed(
  command: Command,
  line: readonly string[],
): { values: Record<string, string | boolean | undefined>; positionals: string[] } {
  const own = Object.entries(command.options).map(([name, { type }]) => [name, { type }] as const);
  try {
    const { values, positionals } = parseArgs({
      args: [...line],
      options: { ...COMMON, ...Object.fromEntries(own) },
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
  if (!/^https?:$/.test(URL.parse(url)?.protocol ?? '')) {
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
  if (error instanceof DdpnoptError) {
    const { detail, remedy, code, request_id: requestId } = error.problem;
    process.stderr.write(`${detail}\n${remedy}\n${unauthenticatedHint(code)}(${code}, request ${requestId})\n`);
    return EXIT.refused;
  }
  if (error instanceof ConnectionError) {
    process.stderr.write(
      `${error.message}\nStart the service (npm start), or say where it is with --url or DDPNOPT_URL.\n`,
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

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.exitCode = explain(error);
}
