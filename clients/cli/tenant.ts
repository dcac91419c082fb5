/** ddpnopt sessions and ddpnopt usage: what a tenant holds and has taken. */
import { usageListSchema } from '../../shared/access.ts';
import { sessionListSchema, type SessionSummary } from '../../shared/session-list.ts';
import { readSession } from '../js/session.ts';
import { complete } from '../js/transport.ts';
import { argumentOf, queryOf, textOf, type Command, type CommandContext } from './command.ts';
import { table } from './table.ts';

async function allSessions({ service }: CommandContext): Promise<SessionSummary[]> {
  const sessions: SessionSummary[] = [];
  let after: string | undefined;
  do {
    const answer = await service.request('GET', `v1/sessions${queryOf({ limit: '200', after })}`, {});
    const page = await complete(async () => sessionListSchema.parse(await answer.json()));
    sessions.push(...page.sessions);
    after = page.next ?? undefined;
  } while (after !== undefined);
  return sessions;
}

const sessionsList: Command = {
  name: 'sessions list',
  summary: 'List the sessions of the key’s tenant, newest first',
  arguments: [],
  options: {},
  examples: ['ddpnopt sessions list', "ddpnopt sessions list --json | jq -r '.sessions[].id'"],
  run: async (context) => {
    const sessions = await allSessions(context);
    const rows = sessions.map(({ id, mode, nextStep, createdAt, expiresAt }) => [
      id,
      mode,
      nextStep === null ? 'stored' : String(nextStep),
      createdAt,
      expiresAt,
    ]);
    return { document: { sessions }, text: table(['ID', 'MODE', 'NEXT STEP', 'CREATED', 'EXPIRES'], rows) };
  },
};

const sessionPath = (context: CommandContext): string => `v1/sessions/${encodeURIComponent(argumentOf(context, 'ID'))}`;

const sessionsShow: Command = {
  name: 'sessions show',
  summary: 'Describe a session: its definition, its next step, the last step’s metrics',
  arguments: ['ID'],
  options: {},
  examples: ['ddpnopt sessions show ses_0123456789abcdef0123456789abcdef'],
  run: async (context) => {
    const document = await readSession(await context.service.request('GET', sessionPath(context), {}));
    return { document, text: JSON.stringify(document, null, 2) };
  },
};

const sessionsDelete: Command = {
  name: 'sessions delete',
  summary: 'Delete a session; its checkpoints stay',
  arguments: ['ID'],
  options: {},
  examples: ['ddpnopt sessions delete ses_0123456789abcdef0123456789abcdef'],
  run: async (context) => {
    await context.service.request('DELETE', sessionPath(context), {});
    const id = argumentOf(context, 'ID');
    return { document: { id, deleted: true }, text: `Session ${id} is deleted.` };
  },
};

const usage: Command = {
  name: 'usage',
  summary: 'Show steps, bytes and compute seconds by day',
  arguments: [],
  options: {
    from: { type: 'string', value: 'DAY', description: 'first day in UTC, as 2026-01-31; 30 days ago unless given' },
    to: { type: 'string', value: 'DAY', description: 'last day; today unless given' },
    tenant: { type: 'string', value: 'TENANT', description: 'of this tenant, with a key that has the scope admin' },
    'all-tenants': { type: 'boolean', description: 'of all of them, likewise' },
  },
  examples: ['ddpnopt usage', 'ddpnopt usage --all-tenants --from 2026-01-01 --to 2026-01-31 --json'],
  run: async (context) => {
    const tenant = textOf(context, 'tenant');
    const path = tenant === undefined && context.options['all-tenants'] !== true ? 'v1/usage' : 'v1/admin/usage';
    const query = queryOf({ from: textOf(context, 'from'), to: textOf(context, 'to'), tenant });
    const answer = await context.service.request('GET', `${path}${query}`, {});
    const document = await complete(async () => usageListSchema.parse(await answer.json()));
    const rows = document.days.map((day) => [
      day.day,
      day.tenant,
      String(day.requests),
      String(day.steps),
      String(day.bytesIn),
      String(day.bytesOut),
      day.computeSeconds.toFixed(3),
    ]);
    return {
      document,
      text: table(['DAY', 'TENANT', 'REQUESTS', 'STEPS', 'BYTES IN', 'BYTES OUT', 'COMPUTE SECONDS'], rows),
    };
  },
};

export const TENANT_COMMANDS: readonly Command[] = [sessionsList, sessionsShow, sessionsDelete, usage];
