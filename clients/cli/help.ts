/** What --help says. */
import type { Command } from './command.ts';
import { table } from './table.ts';

const SETTINGS = table(
  ['OPTION', 'MEANING'],
  [
    ['--url URL', 'where the service is; DDPNOPT_URL, or http://127.0.0.1:8787 unless given'],
    ['--json', 'print the service’s own document'],
    ['--help', 'say what there is, or what a command takes'],
  ],
);

const ENVIRONMENT = table(
  ['VARIABLE', 'MEANING'],
  [
    ['DDPNOPT_API_KEY', 'the key to send; an argument would be seen by everybody on the machine'],
    ['DDPNOPT_ADMIN_KEY', 'the same where DDPNOPT_API_KEY is not set: the operator’s key'],
    ['DDPNOPT_URL', 'where the service is'],
  ],
);

const EXIT_CODES = table(
  ['EXIT CODE', 'WHEN'],
  [
    ['0', 'it is done'],
    ['1', 'the service refused; the reason and the remedy are on standard error'],
    ['2', 'the command line has no meaning'],
    ['3', 'no answer came, or none of the service'],
  ],
);

export function overview(commands: readonly Command[]): string {
  const rows = commands.map((command) => [usageOf(command), command.summary]);
  const examples = commands.flatMap(({ examples: [first] }) => first ?? []);
  return [
    'usage: ddpnopt COMMAND [options]',
    table(['COMMAND', 'WHAT IT DOES'], rows),
    SETTINGS,
    ENVIRONMENT,
    EXIT_CODES,
    `examples:\n${examples.map((example) => `  ${example}`).join('\n')}`,
  ].join('\n\n');
}

export function helpOf(command: Command): string {
  const options = Object.entries(command.options).map(([name, { value, description, isRequired }]) => [
    `--${name}${value === undefined ? '' : ` ${value}`}`,
    `${description}${isRequired === true ? ' (required)' : ''}`,
  ]);
  return [
    `usage: ddpnopt ${usageOf(command)} [options]`,
    `${command.summary}.`,
    ...(options.length === 0 ? [] : [table(['OPTION', 'MEANING'], options)]),
    SETTINGS,
    `examples:\n${command.examples.map((example) => `  ${example}`).join('\n')}`,
  ].join('\n\n');
}

export function usageOf({ name, arguments: names }: Command): string {
  return [name, ...names].join(' ');
}
