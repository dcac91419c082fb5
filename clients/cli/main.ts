#!/usr/bin/env node
/** ddpnopt: the service, training, measurements, estimates, sessions, usage, keys, limits and workers from the command line. */
import { COMMANDS } from './commands.ts';
import { runProgram } from './program.ts';
import { serveCommand } from './serve.ts';

await runProgram([serveCommand, ...COMMANDS]);
