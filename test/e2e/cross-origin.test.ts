/** What a browser asks before it lets a page of another origin call the service, at both edges. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { EDGE_RUNTIMES, startEdge } from '../../deploy/local/edge.ts';

describe.each(EDGE_RUNTIMES)('the edge under %s', (runtime) => {
  let edge: ServiceProcess;
  beforeAll(async () => {
    edge = await startEdge({ port: 0, workerUrl: 'http://127.0.0.1:9', runtime });
  });
  afterAll(() => edge.stop());

  const preflight = (origin: string): Promise<Response> =>
    fetch(new URL('/v1/sessions/ses_0/steps/0', edge.ready.url), {
      method: 'OPTIONS',
      headers: {
        Origin: origin,
        'Access-Control-Request-Method': 'PUT',
        'Access-Control-Request-Headers': 'content-type,ddpnopt-version,authorization',
      },
    });

  it.each(['http://localhost:5173', 'http://127.0.0.1:8080', 'http://[::1]:3000'])('lets %s call', async (origin) => {
    const answer = await preflight(origin);
    expect(answer.status).toBe(204);
    expect(answer.headers.get('access-control-allow-origin')).toBe(origin);
    expect(answer.headers.get('access-control-allow-methods')).toContain('PUT');
    const headers = answer.headers.get('access-control-allow-headers')?.toLowerCase();
    for (const name of ['content-type', 'ddpnopt-version', 'authorization']) expect(headers).toContain(name);
  });

  it.each(['https://example.com', 'http://localhost.example.com', 'null'])('does not let %s call', async (origin) => {
    const answer = await preflight(origin);
    expect(answer.headers.get('access-control-allow-origin')).toBeNull();
  });

  it('lets the page read the headers it needs, of errors too', async () => {
    const answer = await fetch(new URL('/v1/sessions/ses_0', edge.ready.url), {
      headers: { Origin: 'http://localhost:5173' },
    });
    expect(answer.status).toBe(404);
    expect(answer.headers.get('access-control-allow-origin')).toBe('http://localhost:5173');
    const exposed = answer.headers.get('access-control-expose-headers')?.toLowerCase();
    for (const name of ['x-request-id', 'ddpnopt-version', 'retry-after', 'location']) expect(exposed).toContain(name);
  });
});
