#!/usr/bin/env node
/** ddpnopt as the npm package has it: everything that takes a service somewhere, but not the service itself. */
import { CommandError, type LocalCommand } from './command.ts';
import { COMMANDS } from './commands.ts';
import { runProgram } from './program.ts';

const serveElsewhere: LocalCommand = {
  kind: 'local',
  name: 'serve',
  summary: 'Say how to start a service: it is not in this package, which is its client',
  arguments: [],
  options: {},
  examples: ['ddpnopt serve'],
  run: () =>
    Promise.reject(
      new CommandError(
        'The service is not in this package, which is its client. In a clone of the project, `npm ci && npm start` starts it at\n' +
          'http://127.0.0.1:8787, where all other commands look for one unless --url or DDPNOPT_URL says otherwise.',
      ),
    ),
};

await runProgram([serveElsewhere, ...COMMANDS]);
