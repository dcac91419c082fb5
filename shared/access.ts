/** API keys, limits and usage of tenants, as the service describes them. */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { tenantSchema, type Tenant } from './tenant.ts';

/** What a key may be used for. */
export const SCOPES = {
  'sessions:read': 'read sessions, replies, weights and events',
  'sessions:write': 'create, change and delete sessions, take steps, ask for predictions and solutions',
  checkpoints: 'make, list, download, import and delete checkpoints',
  'usage:read': 'read the tenant’s usage',
  'metrics:read': 'read the edge’s metrics',
  admin: 'manage keys, limits and workers, and read every tenant’s usage',
} as const;

export type Scope = keyof typeof SCOPES;

const scopeSchema = z.enum(Object.keys(SCOPES) as [Scope, ...Scope[]]).meta({
  description: Object.entries(SCOPES)
    .map(([scope, meaning]) => `\`${scope}\`: ${meaning}`)
    .join('; '),
});

export const ALL_SCOPES: readonly Scope[] = scopeSchema.options;

/** Of a key that nothing else is said of. */
const TRAINING_SCOPES: Scope[] = ['sessions:read', 'sessions:write', 'checkpoints', 'usage:read'];

export const keyIdSchema = z
  .string()
  .regex(/^[0-9a-f]{16}$/)
  .brand('KeyId')
  .meta({ description: 'Public part of a key, by which it is named', example: '0123456789abcdef' });

export type KeyId = z.output<typeof keyIdSchema>;

export const apiKeySchema = z
  .object({
    id: keyIdSchema,
    name: z.string(),
    tenant: tenantSchema,
    scopes: z.array(scopeSchema),
    createdAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().nullable().meta({ description: 'From when on it is refused; null for never' }),
    revokedAt: z.iso
      .datetime()
      .nullable()
      .meta({ description: 'From when on it is refused; null if it is not revoked' }),
    lastUsedAt: z.iso.datetime().nullable().meta({ description: 'To some seconds; null if it never was' }),
  })
  .meta({ id: 'ApiKey' });

export type ApiKey = z.output<typeof apiKeySchema>;

export const apiKeyOrderSchema = z
  .strictObject({
    name: z.string().min(1).max(100).meta({ description: 'For people', example: 'laptop' }),
    tenant: tenantSchema,
    scopes: z.array(scopeSchema).min(1).default(TRAINING_SCOPES),
    expiresAt: z.iso
      .datetime()
      .nullable()
      .default(null)
      .meta({ description: 'From when on it is refused; null for never' }),
  })
  .meta({ id: 'ApiKeyOrder' });

/** What may be written: defaults left out. */
export type ApiKeyOrder = z.input<typeof apiKeyOrderSchema>;

export const newApiKeySchema = z
  .object({
    ...apiKeySchema.shape,
    key: z.string().meta({ description: 'The key itself. It is shown once: what is stored is its SHA-256' }),
  })
  .meta({ id: 'NewApiKey' });

export type NewApiKey = z.output<typeof newApiKeySchema>;

export const apiKeyListSchema = z
  .object({ keys: z.array(apiKeySchema).meta({ description: 'Newest first' }) })
  .meta({ id: 'ApiKeyList' });

const quota = z.int().min(0).nullable().default(null);

export const tenantLimitsSchema = z
  .strictObject({
    requestsPerSecond: z.number().positive().max(1e6).default(200).meta({
      description: 'Of each key, in the long run, at each of the edge’s isolates',
    }),
    burst: z.int().min(1).max(1e6).default(400).meta({ description: 'Requests of each key that may come at once' }),
    sessions: quota.meta({ description: 'Sessions held at once; null for no limit' }),
    stepsPerDay: quota.meta({ description: 'Steps computed in a day (UTC); null for no limit' }),
    bytesPerDay: quota.meta({ description: 'Bytes of bodies, in and out, in a day (UTC); null for no limit' }),
    computeSecondsPerDay: quota.meta({ description: 'Seconds of the device’s time in a day (UTC); null for no limit' }),
  })
  .meta({ id: 'TenantLimits' });

export type TenantLimits = z.output<typeof tenantLimitsSchema>;

/** What may be written: defaults left out. */
export type TenantLimitsInput = z.input<typeof tenantLimitsSchema>;

export const DEFAULT_LIMITS: TenantLimits = tenantLimitsSchema.parse({});

export const usageSchema = z
  .object({
    requests: z.int().meta({ description: 'Requests that were answered, refusals included' }),
    steps: z.int().meta({ description: 'Steps computed; a step that is sent again is not counted again' }),
    bytesIn: z.int().meta({ description: 'Bytes of requests’ bodies' }),
    bytesOut: z.int().meta({ description: 'Bytes of answers’ bodies' }),
    computeSeconds: z.number().meta({ description: 'Seconds of the device’s time' }),
  })
  .meta({ id: 'Usage' });

export type Usage = z.output<typeof usageSchema>;

export const NO_USAGE: Usage = { requests: 0, steps: 0, bytesIn: 0, bytesOut: 0, computeSeconds: 0 };

export function addUsage(a: Usage, b: Usage): Usage {
  return {
    requests: a.requests + b.requests,
    steps: a.steps + b.steps,
    bytesIn: a.bytesIn + b.bytesIn,
    bytesOut: a.bytesOut + b.bytesOut,
    computeSeconds: a.computeSeconds + b.computeSeconds,
  };
}

export const dailyUsageSchema = z
  .object({ tenant: tenantSchema, day: z.iso.date().meta({ description: 'In UTC' }), ...usageSchema.shape })
  .meta({ id: 'DailyUsage' });

export type DailyUsage = z.output<typeof dailyUsageSchema>;

export const usageListSchema = z
  .object({
    days: z.array(dailyUsageSchema).meta({ description: 'Latest first; days without a request are left out' }),
  })
  .meta({ id: 'UsageList' });

export const usageQuerySchema = z.object({
  from: z.iso
    .date()
    .optional()
    .meta({ description: 'First day, in UTC; 30 days ago unless given', example: '2026-01-01' }),
  to: z.iso.date().optional().meta({ description: 'Last day, in UTC; today unless given', example: '2026-01-31' }),
});

export type UsageQuery = z.output<typeof usageQuerySchema>;

export function sessionQuotaExceeded(tenant: Tenant, held: number): ProblemError {
  return new ProblemError('quota_exceeded', {
    detail: `Tenant ${tenant} holds ${String(held)} sessions, which is all it may.`,
    remedy: 'Delete sessions that are done (GET /v1/sessions lists them), or have the tenant’s limits raised.',
  });
}

/** A worker that has registered, as the operator sees it. */
const registeredWorkerSchema = z
  .object({
    id: z.string().meta({ description: 'Of the process: a worker that is started again is another one' }),
    url: z.string().meta({ description: 'Where the edge reaches it' }),
    state: z.enum(['usable', 'draining', 'lost']),
    engine: z.string(),
    sessions: z.int(),
    capacity: z.int().meta({ description: 'Sessions that it can hold' }),
    queued: z.int().meta({ description: 'Jobs that wait for its device' }),
    bytes: z.int().meta({ description: 'Of the states of its sessions' }),
    heardAt: z.iso.datetime().meta({ description: 'When its last heartbeat came' }),
  })
  .meta({ id: 'RegisteredWorker' });

export type RegisteredWorker = z.output<typeof registeredWorkerSchema>;

export const workerListSchema = z.object({ workers: z.array(registeredWorkerSchema) }).meta({ id: 'WorkerList' });

export function keyNotFound(id: string): ProblemError {
  return new ProblemError('key_not_found', {
    param: 'id',
    detail: `There is no API key ${JSON.stringify(id)}.`,
    remedy: 'List the keys with GET /v1/admin/keys; a key is named by its id, the 16 characters after "ddpnopt_".',
  });
}
