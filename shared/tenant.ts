/** Tenants: whose a session or a checkpoint is. Every API key belongs to one; it sees its own and nothing of another’s. */
import * as z from 'zod';

/** How a tenant is written. */
export const TENANT_NAME = /^[a-z0-9][a-z0-9-]{0,62}$/;

export const tenantSchema = z
  .string()
  .regex(TENANT_NAME, {
    error: 'lower-case letters, digits and hyphens were expected, at most 63, a letter or digit first',
  })
  .brand('Tenant')
  .meta({ description: 'Whose sessions and checkpoints they are', example: 'research' });

export type Tenant = z.output<typeof tenantSchema>;

/** Of requests without a key, in development, and of what was stored before there were tenants. */
export const LOCAL_TENANT: Tenant = tenantSchema.parse('local');
