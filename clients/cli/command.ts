/** What a command is, and what it has to work with. */
import type { DdpnoptClient } from '../js/client.ts';
import type { Transport } from '../js/transport.ts';

export interface CommandOption {
  readonly type: 'string' | 'boolean';
  /** What stands for the value in the help. */
  readonly value?: string;
  readonly description: string;
  readonly isRequired?: boolean;
}

export interface CommandContext {
  readonly service: Transport;
  /** The same service, for whole sessions. */
  readonly client: DdpnoptClient;
  /** Says in a line how far the command is, beside what it prints. */
  readonly progress: (line: string) => void;
  readonly options: Readonly<Record<string, string | boolean | undefined>>;
  readonly arguments: Readonly<Record<string, string>>;
}

/** What a command has found: the service's own document, and the same for people. */
export interface CommandResult {
  readonly document: unknown;
  readonly text: string;
}

export interface Command {
  /** As it is typed: "keys create". */
  readonly name: string;
  readonly summary: string;
  /** Names of its arguments, each of which must be there. */
  readonly arguments: readonly string[];
  readonly options: Readonly<Record<string, CommandOption>>;
  readonly examples: readonly string[];
  /** @throws UsageError, DdpnoptError, ConnectionError */
  readonly run: (context: CommandContext) => Promise<CommandResult>;
}

/** The command line is not one that there is a meaning for. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** The option's text, if it was given. */
export function textOf({ options }: CommandContext, name: string): string | undefined {
  const value = options[name];
  return typeof value === 'string' ? value : undefined;
}

/** Of an option that the command requires. */
export function requiredText(context: CommandContext, name: string): string {
  const text = textOf(context, name);
  if (text === undefined) throw new UsageError(`--${name} is missing`);
  return text;
}

/** Of an argument, which is checked to be there before the command runs. */
export function argumentOf(context: CommandContext, name: string): string {
  const text = context.arguments[name];
  if (text === undefined) throw new UsageError(`${name} is missing`);
  return text;
}

/** A query of the options that were given. */
export function queryOf(parameters: Readonly<Record<string, string | undefined>>): string {
  const given = Object.entries(parameters).filter((pair): pair is [string, string] => pair[1] !== undefined);
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`;
}
