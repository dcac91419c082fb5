/** What --help says. */
import type { Command } from './command.ts';
import { table } from './table.ts';

const URL_SETTING = ['--url URL', 'where the service is; DDPNOPT_URL, or http://127.0.0.1:8787 unless given'] as const;
const SETTINGS = [
  ['--json', 'print a document for programs: the service’s own, where it answers one'],
  ['--help', 'say what there is, or what a command takes'],
] as const;
const settings = (rows: readonly (readonly string[])[]): string => table(['OPTION', 'MEANING'], rows);

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
    ['1', 'the service refused, or did not start; the reason and the remedy are on standard error'],
    ['2', 'the command line has no meaning'],
    ['3', 'no answer came, or none of the service'],
    ['130', 'it was interrupted'],
  ],
);

export function overview(commands: readonly Command[]): string {
  const rows = commands.map((command) => [usageOf(command), command.summary]);
  const examples = commands.flatMap(({ examples: [first] }) => first ?? []);
  return [
    'usage: ddpnopt COMMAND [options]',
    table(['COMMAND', 'WHAT IT DOES'], rows),
    settings([URL_SETTING, ...SETTINGS]),
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
    settings([...(command.kind === 'local' ? [] : [URL_SETTING]), ...SETTINGS]),
    ...(command.notes === undefined ? [] : [command.notes.join('\n')]),
    `examples:\n${command.examples.map((example) => `  ${example}`).join('\n')}`,
  ].join('\n\n');
}

export function usageOf({ name, arguments: names }: Command): string {
  return [name, ...names].join(' ');
}
