/** ddpnopt keys, limits and workers: what the operator does. */
import {
  apiKeyListSchema,
  newApiKeySchema,
  SCOPES,
  tenantLimitsSchema,
  workerListSchema,
  type ApiKey,
  type TenantLimits,
} from '../../shared/access.ts';
import { complete } from '../js/transport.ts';
import {
  argumentOf,
  queryOf,
  requiredText,
  textOf,
  UsageError,
  type Command,
  type CommandContext,
  type CommandOption,
} from './command.ts';
import { table } from './table.ts';

const DAY_MILLISECONDS = 86_400_000;

const json = (document: object): { contentType: string; content: string } => ({
  contentType: 'application/json',
  content: JSON.stringify(document),
});

function stateOf({ revokedAt, expiresAt }: ApiKey): string {
  if (revokedAt !== null) return 'revoked';
  return expiresAt !== null && Date.parse(expiresAt) <= Date.now() ? 'expired' : 'active';
}

/** When a key made now ends. */
function expiry(context: CommandContext): string | undefined {
  const days = textOf(context, 'expires-in-days');
  if (days === undefined) return undefined;
  if (!/^[1-9]\d{0,4}$/.test(days))
    throw new UsageError(`--expires-in-days is ${days}; a whole number of days was expected`);
  return new Date(Date.now() + Number(days) * DAY_MILLISECONDS).toISOString();
}

const keysCreate: Command = {
  name: 'keys create',
  summary: 'Create an API key; it is shown once',
  arguments: [],
  options: {
    name: { type: 'string', value: 'TEXT', description: 'what people call it', isRequired: true },
    tenant: { type: 'string', value: 'TENANT', description: 'whose sessions it is for', isRequired: true },
    scopes: {
      type: 'string',
      value: 'A,B',
      description: `of ${Object.keys(SCOPES).join(', ')}; for training unless given`,
    },
    'expires-in-days': { type: 'string', value: 'DAYS', description: 'after which it is refused; never unless given' },
  },
  examples: [
    'ddpnopt keys create --name laptop --tenant research',
    'ddpnopt keys create --name dashboard --tenant research --scopes sessions:read,usage:read --expires-in-days 90',
  ],
  run: async (context) => {
    const scopes = textOf(context, 'scopes')?.split(',');
    const expiresAt = expiry(context);
    const order = {
      name: requiredText(context, 'name'),
      tenant: requiredText(context, 'tenant'),
      ...(scopes === undefined ? {} : { scopes }),
      ...(expiresAt === undefined ? {} : { expiresAt }),
    };
    const answer = await context.service.request('POST', 'v1/admin/keys', {}, json(order));
    const document = await complete(async () => newApiKeySchema.parse(await answer.json()));
    const text = `${document.key}\n\nKey ${document.id} of tenant ${document.tenant}: ${document.scopes.join(', ')}. It is not shown again.`;
    return { document, text };
  },
};

const keysList: Command = {
  name: 'keys list',
  summary: 'List API keys, revoked and expired ones, too',
  arguments: [],
  options: { tenant: { type: 'string', value: 'TENANT', description: 'of this tenant alone' } },
  examples: ['ddpnopt keys list', 'ddpnopt keys list --tenant research --json'],
  run: async (context) => {
    const query = queryOf({ tenant: textOf(context, 'tenant') });
    const answer = await context.service.request('GET', `v1/admin/keys${query}`, {});
    const document = await complete(async () => apiKeyListSchema.parse(await answer.json()));
    const rows = document.keys.map((key) => [
      key.id,
      key.tenant,
      key.name,
      stateOf(key),
      key.lastUsedAt ?? 'never',
      key.scopes.join(','),
    ]);
    return { document, text: table(['ID', 'TENANT', 'NAME', 'STATE', 'LAST USED', 'SCOPES'], rows) };
  },
};

const keysRevoke: Command = {
  name: 'keys revoke',
  summary: 'Refuse an API key from now on',
  arguments: ['ID'],
  options: {},
  examples: ['ddpnopt keys revoke 0123456789abcdef'],
  run: async (context) => {
    const id = argumentOf(context, 'ID');
    await context.service.request('DELETE', `v1/admin/keys/${encodeURIComponent(id)}`, {});
    return { document: { id, revoked: true }, text: `Key ${id} is revoked; every edge refuses it within seconds.` };
  },
};

/** The options of `limits set`, by what they set. */
const LIMIT_OPTIONS = {
  'requests-per-second': 'requestsPerSecond',
  burst: 'burst',
  sessions: 'sessions',
  'steps-per-day': 'stepsPerDay',
  'bytes-per-day': 'bytesPerDay',
  'compute-seconds-per-day': 'computeSecondsPerDay',
} as const satisfies Record<string, keyof TenantLimits>;

function limitsPath(context: CommandContext): string {
  return `v1/admin/tenants/${encodeURIComponent(argumentOf(context, 'TENANT'))}/limits`;
}

function describeLimits(limits: TenantLimits): string {
  const rows = Object.entries(LIMIT_OPTIONS).map(([name, field]) => [name, String(limits[field] ?? 'none')]);
  return table(['LIMIT', 'VALUE'], rows);
}

async function readLimits(context: CommandContext): Promise<TenantLimits> {
  const answer = await context.service.request('GET', limitsPath(context), {});
  return complete(async () => tenantLimitsSchema.parse(await answer.json()));
}

const limitsShow: Command = {
  name: 'limits show',
  summary: 'Show what a tenant may take',
  arguments: ['TENANT'],
  options: {},
  examples: ['ddpnopt limits show research'],
  run: async (context) => {
    const document = await readLimits(context);
    return { document, text: describeLimits(document) };
  },
};

const limitsSet: Command = {
  name: 'limits set',
  summary: 'Change what a tenant may take; what is not given stays',
  arguments: ['TENANT'],
  options: Object.fromEntries(
    Object.keys(LIMIT_OPTIONS).map((name): [string, CommandOption] => [
      name,
      { type: 'string', value: 'NUMBER', description: /-day$|^sessions$/.test(name) ? 'or "none"' : 'of each key' },
    ]),
  ),
  examples: [
    'ddpnopt limits set research --sessions 20 --compute-seconds-per-day 36000',
    'ddpnopt limits set research --steps-per-day none',
  ],
  run: async (context) => {
    const given = Object.entries(LIMIT_OPTIONS).flatMap(([name, field]) => {
      const text = textOf(context, name);
      if (text === undefined) return [];
      const value = text === 'none' ? null : Number(text);
      if (value !== null && !Number.isFinite(value)) {
        throw new UsageError(`--${name} is ${JSON.stringify(text)}; a number was expected, or "none"`);
      }
      return [[field, value] as const];
    });
    if (given.length === 0) throw new UsageError('no limit is given');
    const limits = { ...(await readLimits(context)), ...Object.fromEntries(given) };
    const answer = await context.service.request('PUT', limitsPath(context), {}, json(limits));
    const document = await complete(async () => tenantLimitsSchema.parse(await answer.json()));
    return { document, text: describeLimits(document) };
  },
};

const workersList: Command = {
  name: 'workers list',
  summary: 'List the workers that have registered with the edge',
  arguments: [],
  options: {},
  examples: ['ddpnopt workers list'],
  run: async ({ service }) => {
    const answer = await service.request('GET', 'v1/admin/workers', {});
    const document = await complete(async () => workerListSchema.parse(await answer.json()));
    const rows = document.workers.map(({ id, state, engine, sessions, capacity, queued, heardAt, url }) => [
      id,
      state,
      engine,
      `${String(sessions)}/${String(capacity)}`,
      String(queued),
      heardAt,
      url,
    ]);
    return { document, text: table(['ID', 'STATE', 'ENGINE', 'SESSIONS', 'QUEUED', 'HEARD', 'URL'], rows) };
  },
};

export const OPERATOR_COMMANDS: readonly Command[] = [
  keysCreate,
  keysList,
  keysRevoke,
  limitsShow,
  limitsSet,
  workersList,
];
