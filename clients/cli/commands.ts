/** The commands that take a service somewhere, and nothing else. */
import type { Command } from './command.ts';
import { OPERATOR_COMMANDS } from './operator.ts';
import { TENANT_COMMANDS } from './tenant.ts';
import { TRAINING_COMMANDS } from './training.ts';

export const COMMANDS: readonly Command[] = [...TRAINING_COMMANDS, ...TENANT_COMMANDS, ...OPERATOR_COMMANDS];
