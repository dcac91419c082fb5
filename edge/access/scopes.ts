/** Which scope a request needs: one rule for all resources, those to come included. */
import type { Scope } from '../../shared/access.ts';

/** @returns null for what is open to everybody */
export function scopeOf(method: string, path: string): Scope | null {
  if (path === '/metrics') return 'metrics:read';
  if (!path.startsWith('/v1/') || path === '/v1/capabilities') return null;
  if (path.startsWith('/v1/admin/')) return 'admin';
  if (path === '/v1/usage') return 'usage:read';
  if (path.split('/').includes('checkpoints')) return 'checkpoints';
  return method === 'GET' || method === 'HEAD' ? 'sessions:read' : 'sessions:write';
}
