/** Traces: the client's goes through edge and worker, and arrives at an OTLP receiver. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startEdge } from '../../deploy/local/edge.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { newSession, stepBody } from './support.ts';

interface Attribute {
  readonly key: string;
  readonly value: { readonly stringValue?: string; readonly intValue?: number };
}
interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly kind: number;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly Attribute[];
}
interface Exported {
  readonly resourceSpans: readonly {
    readonly resource: { readonly attributes: readonly Attribute[] };
    readonly scopeSpans: readonly { readonly spans: readonly Span[] }[];
  }[];
}

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';
const SERVER_KIND = 2;

let receiver: Server;
let endpoint: string;
const exported: Exported[] = [];
beforeAll(async () => {
  receiver = createServer((request, response) => {
    void (async () => {
      const chunks: Uint8Array[] = [];
      for await (const chunk of request as AsyncIterable<Uint8Array>) chunks.push(chunk);
      expect([request.method, request.url]).toEqual(['POST', '/v1/traces']);
      exported.push(JSON.parse(Buffer.concat(chunks).toString()) as Exported);
      response.setHeader('content-type', 'application/json').end('{}');
    })();
  });
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  endpoint = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`;
});
afterAll(() => receiver.close());

it('a step is a span in its client’s trace, and its log line names that', async () => {
  const settings = { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_SERVICE_NAME: 'tested', DDPNOPT_LOG_LEVEL: 'info' };
  const worker = await startWorker({ port: 0, engine: 'reference', settings });
  const edge = await startEdge({ port: 0, workerUrl: worker.ready.url });
  const { id } = await newSession(edge.ready.url);
  const begun = Date.now();
  const answer = await fetch(new URL(`/v1/sessions/${id}/steps/0`, edge.ready.url), {
    method: 'PUT',
    headers: { 'content-type': SAFETENSORS_CONTENT_TYPE, traceparent: `00-${TRACE}-${PARENT}-01` },
    body: stepBody(1),
  });
  expect(answer.status).toBe(200);
  await answer.arrayBuffer();
  const ended = Date.now();
  await edge.stop();
  // It sends what is left.
  await worker.stop();

  const resources = exported.flatMap(({ resourceSpans }) => resourceSpans);
  for (const { resource } of resources) {
    expect(resource.attributes).toContainEqual({ key: 'service.name', value: { stringValue: 'tested' } });
  }
  const spans = resources.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans));
  const ours = spans.filter(({ traceId }) => traceId === TRACE);
  expect(ours).toHaveLength(1);
  const [span] = ours;
  expect(span).toMatchObject({ parentSpanId: PARENT, name: 'PUT /sessions/:id/steps/:n', kind: SERVER_KIND });
  const value = (name: string): unknown => Object.values(span!.attributes.find(({ key }) => key === name)!.value)[0];
  expect(value('http.response.status_code')).toBe(200);
  expect(value('ddpnopt.session')).toBe(id);
  expect(value('ddpnopt.step')).toBe(0);
  expect(value('ddpnopt.request_id')).toBe(answer.headers.get('x-request-id'));
  const milliseconds = (nanoseconds: string): number => Number(BigInt(nanoseconds) / 1_000_000n);
  expect(milliseconds(span!.startTimeUnixNano)).toBeGreaterThanOrEqual(begun - 1);
  expect(milliseconds(span!.endTimeUnixNano)).toBeLessThanOrEqual(ended + 1);
  expect(spans.some(({ traceId, parentSpanId }) => traceId !== TRACE && parentSpanId === undefined)).toBe(true);

  const line = worker
    .errors()
    .split('\n')
    .find((text) => text.includes(TRACE));
  expect(JSON.parse(line!)).toMatchObject({ event: 'request', traceId: TRACE, session: id });
});

it('a receiver that is away keeps nobody from being answered, nor the worker from ending', async () => {
  const settings = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9' };
  const worker = await startWorker({ port: 0, engine: 'reference', settings });
  expect((await fetch(`${worker.ready.url}/healthz`)).status).toBe(200);
  await worker.stop();
  expect(await worker.ended).toBe('exit code 0');
});
