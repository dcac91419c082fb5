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

/** What every command has. */
export interface LocalContext {
  /** Says in a line how far the command is, beside what it prints. */
  readonly progress: (line: string) => void;
  readonly options: Readonly<Record<string, string | boolean | undefined>>;
  readonly arguments: Readonly<Record<string, string>>;
}

/** What a command has that speaks to a service. */
export interface CommandContext extends LocalContext {
  readonly service: Transport;
  /** The same service, for whole sessions. */
  readonly client: DdpnoptClient;
  /** Aborted by Ctrl-C and SIGTERM, which end no command that has read this: what it made at the service is to go first. */
  readonly signal: AbortSignal;
}

/** What a command has found: the service's own document, and the same for people. */
export interface CommandResult {
  readonly document: unknown;
  readonly text: string;
  /** What goes on after this has been printed, to its end. @throws CommandError */
  readonly goOn?: () => Promise<void>;
}

interface CommandDescription {
  /** As it is typed: "keys create". */
  readonly name: string;
  readonly summary: string;
  /** Names of its arguments, each of which must be there. */
  readonly arguments: readonly string[];
  readonly options: Readonly<Record<string, CommandOption>>;
  /** Lines that the help has below the options. */
  readonly notes?: readonly string[];
  readonly examples: readonly string[];
}

/** Speaks to the service that --url names. */
export interface ServiceCommand extends CommandDescription {
  readonly kind?: 'service';
  /** @throws UsageError, DdpnoptError, ConnectionError */
  readonly run: (context: CommandContext) => Promise<CommandResult>;
}

/** Needs no service. */
export interface LocalCommand extends CommandDescription {
  readonly kind: 'local';
  /** @throws UsageError, CommandError */
  readonly run: (context: LocalContext) => Promise<CommandResult>;
}

export type Command = ServiceCommand | LocalCommand;

/** What a command set out to do cannot be done here; the message is for people. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
}

/** The command line is not one that there is a meaning for. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** The option's text, if it was given. */
export function textOf({ options }: LocalContext, name: string): string | undefined {
  const value = options[name];
  return typeof value === 'string' ? value : undefined;
}

/** Of an option that the command requires. */
export function requiredText(context: LocalContext, name: string): string {
  const text = textOf(context, name);
  if (text === undefined) throw new UsageError(`--${name} is missing`);
  return text;
}

/** Of an argument, which is checked to be there before the command runs. */
export function argumentOf(context: LocalContext, name: string): string {
  const text = context.arguments[name];
  if (text === undefined) throw new UsageError(`${name} is missing`);
  return text;
}

/** A query of the options that were given. */
export function queryOf(parameters: Readonly<Record<string, string | undefined>>): string {
  const given = Object.entries(parameters).filter((pair): pair is [string, string] => pair[1] !== undefined);
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`;
}
