/**
 * Requests made from the OpenAPI document, against edge and worker. Its examples are taken; what is made at random, most of it wrong in
 * one place, is not answered by a defect; and every answer is one that the document has.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { EVENT_STREAM_CONTENT_TYPE } from '../../shared/session-events.ts';
import { tensorsOfJson } from '../../shared/json-tensors.ts';
import { create, describeSession, type Answer } from './support.ts';
import { fetchDocument, operationsOf, schemaAt, type Document, type Operation } from './openapi.ts';

const RUNS = 60;
const SEED = 20_261_123;

let stack: LocalStack;
let document: Document;
let schemas: Ajv2020;
let sessions: readonly string[];

beforeAll(async () => {
  stack = await startStack({ engine: 'wasm' });
  document = await fetchDocument(stack.url);
  schemas = new Ajv2020({ strict: false, validateFormats: false });
  schemas.addSchema(document, 'document');
  const orders = examplesOf(document.paths['/v1/sessions']!['post']!);
  sessions = await Promise.all(
    orders
      .filter((order) => !Object.hasOwn(order as object, 'fromCheckpoint'))
      .map(async (order) => {
        const answer = await create(stack.url, order);
        expect(answer.status).toBe(201);
        return answer.headers.get('location')!.split('/').at(-1)!;
      }),
  );
});
afterAll(() => stack.stop());

function examplesOf({ requestBody }: Operation): unknown[] {
  return Object.values(requestBody?.content['application/json']?.examples ?? {}).map(({ value }) => value);
}

interface Request {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array<ArrayBuffer> | null;
}

const JUNK = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }),
  fc.constantFrom(
    -1,
    0,
    0.5,
    1e9,
    1e308,
    2 ** 53,
    '',
    'NaN',
    '__proto__',
    'layers',
    [],
    {},
    [[]],
    null,
    'x'.repeat(5000),
  ),
);

/** The document with something about it changed, mostly one thing. */
function spoiled(original: unknown): fc.Arbitrary<unknown> {
  const change = fc.record({ seed: fc.nat(), junk: JUNK, kind: fc.constantFrom('replace', 'remove', 'add', 'copy') });
  return fc.array(change, { minLength: 0, maxLength: 3 }).map((changes) => {
    const whole = { root: structuredClone(original) };
    for (const { seed, junk: shared, kind } of changes) {
      const junk = structuredClone(shared);
      const places = placesIn(whole);
      const { holder, key } = places[seed % places.length]!;
      if (kind === 'replace') holder[key] = junk;
      else if (kind === 'remove' && Array.isArray(holder)) holder.splice(Number(key), 1);
      else if (kind === 'remove' && holder !== (whole as object)) Reflect.deleteProperty(holder, key);
      else if (kind === 'add' && typeof holder[key] === 'object' && holder[key] !== null) {
        Object.assign(holder[key], { [typeof junk === 'string' ? junk : 'additional']: junk });
      } else if (kind === 'copy' && Array.isArray(holder)) holder.push(structuredClone(holder[Number(key)]));
    }
    return whole.root;
  });
}

interface Place {
  readonly holder: Record<string, unknown>;
  readonly key: string;
}

function placesIn(value: unknown): Place[] {
  if (typeof value !== 'object' || value === null) return [];
  const holder = value as Record<string, unknown>;
  return Object.keys(holder).flatMap((key) => [{ holder, key }, ...placesIn(holder[key])]);
}

const segment = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom('0', '1', '2') },
  { weight: 1, arbitrary: fc.string({ minLength: 1, maxLength: 12 }).filter((text) => !/^\.+$/.test(text)) },
  { weight: 1, arbitrary: fc.constantFrom('-1', '1e3', '00', '99999999999999999999', 'ses_', '%00', '💥') },
);
const unknownId = fc.constantFrom(`ses_${'0'.repeat(32)}`, `ckp_${'0'.repeat(32)}`);

function pathOf(template: string): fc.Arbitrary<string> {
  const parts = template.split('/').map((part): fc.Arbitrary<string> => {
    if (!part.startsWith('{')) return fc.constant(part);
    const valid = part === '{id}' ? fc.constantFrom(...sessions) : segment;
    return fc.oneof(
      { weight: 8, arbitrary: valid },
      { weight: 1, arbitrary: unknownId },
      { weight: 1, arbitrary: segment },
    );
  });
  return fc.tuple(...parts).map((segments) => segments.map(encodeURIComponent).join('/'));
}

function bodyOf(operation: Operation): fc.Arbitrary<Pick<Request, 'headers' | 'body'>> {
  const types = Object.keys(operation.requestBody?.content ?? {});
  if (types.length === 0) return fc.constant({ headers: {}, body: null });
  const examples = examplesOf(operation);
  const sent = examples.length === 0 ? fc.constant({}) : fc.constantFrom(...examples).chain(spoiled);
  const text = fc.oneof(
    { weight: 10, arbitrary: sent.map((value) => JSON.stringify(value)) },
    { weight: 1, arbitrary: JUNK.map((value) => JSON.stringify(value)) },
    { weight: 1, arbitrary: fc.constantFrom('', '{', '[1,', 'null', '\u0000', '{"a":1e999}') },
  );
  const type = (accepted: string): fc.Arbitrary<string> =>
    fc.oneof(
      { weight: 12, arbitrary: fc.constant(accepted) },
      { weight: 1, arbitrary: fc.constantFrom('text/plain', 'a', '*/*') },
    );
  const asJson = fc
    .tuple(text, type('application/json'))
    .map(([body, contentType]) => ({ body, headers: { 'content-type': contentType } }));
  if (!types.includes(SAFETENSORS_CONTENT_TYPE)) return asJson;
  const encoded =
    examples.length === 0
      ? [new Uint8Array(64)]
      : examples.map((example) => encode(tensorsOfJson(example as Record<string, unknown>)));
  const file = fc
    .tuple(
      fc.constantFrom(...encoded),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }),
      fc.option(fc.nat(), { freq: 4 }),
    )
    .map(([whole, bytes, cut]) => {
      const body = whole.slice(0, cut === null ? whole.length : cut % (whole.length + 1));
      for (const [at, byte] of bytes) if (body.length > 0) body[at % body.length] = byte;
      return body;
    });
  const asFile = fc
    .tuple(file, type(SAFETENSORS_CONTENT_TYPE))
    .map(([body, contentType]) => ({ body, headers: { 'content-type': contentType } }));
  return types.includes('application/json') ? fc.oneof(asJson, asFile) : asFile;
}

function requestsOf(path: string, operation: Operation): fc.Arbitrary<Request> {
  const query = (operation.parameters ?? []).filter((parameter) => parameter.in === 'query').map(({ name }) => name!);
  const queries =
    query.length === 0
      ? fc.constant('')
      : fc
          .array(
            fc.tuple(fc.constantFrom(...query, 'unknown'), fc.oneof(segment, fc.constantFrom('value', '1e400', ''))),
            { maxLength: 2 },
          )
          .map((pairs) => (pairs.length === 0 ? '' : `?${new URLSearchParams(pairs).toString()}`));
  const headers = fc.record(
    {
      accept: fc.constantFrom('application/json', '*/*', 'text/html', 'q;;;', SAFETENSORS_CONTENT_TYPE),
      'ddpnopt-version': fc.constantFrom('2026-11-01', '2026-11-01', '2026-11-01', '1999-01-01', ''),
      'x-request-id': fc.constantFrom('mine', 'a'.repeat(300), 'no spaces please'),
    },
    { requiredKeys: [] },
  );
  return fc
    .tuple(pathOf(path), queries, headers, bodyOf(operation))
    .map(([where, search, common, { headers: own, body }]) => ({
      path: `${where}${search}`,
      headers: { ...common, ...own },
      body,
    }));
}

async function send(method: string, { path, headers, body }: Request): Promise<Answer> {
  const response = await fetch(new URL(path, stack.url), {
    method: method.toUpperCase(),
    headers,
    ...(body === null ? {} : { body }),
  });
  const { status, headers: answered } = response;
  if (answered.get('content-type') === EVENT_STREAM_CONTENT_TYPE) {
    // It goes on as long as the session.
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    const { value } = await reader.read();
    await reader.cancel();
    return { status, headers: answered, bytes: value ?? new Uint8Array(0) };
  }
  return { status, headers: answered, bytes: new Uint8Array(await response.arrayBuffer()) };
}

/** What the document says of an answer must hold of it. */
function judge(path: string, method: string, operation: Operation, { status, headers, bytes }: Answer): void {
  const type = headers.get('content-type')?.split(';')[0] ?? null;
  const text = (): unknown => JSON.parse(new TextDecoder().decode(bytes)) as unknown;
  expect(headers.get('x-request-id')).toBeTruthy();
  // A path that was spoiled may be that of no resource.
  const isElsewhere = status === 404 && (text() as { code: string }).code === 'route_not_found';
  if (isElsewhere || status === 405) return;
  expect(status).toBeLessThan(500);
  expect(Object.keys(operation.responses)).toContain(String(status));
  if (status === 204) return;
  const content = operation.responses[String(status)]!.content ?? {};
  expect(Object.keys(content)).toContain(type);
  if (type !== 'application/json' && type !== 'application/problem+json') return;
  const validate = schemas.getSchema(schemaAt(path, method, String(status), type))!;
  expect(validate(text()), JSON.stringify(validate.errors)).toBe(true);
}

function shown(method: string, { path, headers, body }: Request, { status, bytes }: Answer): string {
  const sent = typeof body === 'string' ? body.slice(0, 2000) : `${String(body?.length ?? 0)} bytes`;
  return `${method} ${path} ${JSON.stringify(headers)} ${sent}\n→ ${String(status)} ${new TextDecoder().decode(bytes.slice(0, 2000))}`;
}

it('takes every example of a step, in the session that is of its mode', async () => {
  const path = '/v1/sessions/{id}/steps/{n}';
  const operation = document.paths[path]!['put']!;
  const steps = examplesOf(operation);
  expect(steps).toHaveLength(sessions.length);
  for (const [index, step] of steps.entries()) {
    const headers = { 'content-type': 'application/json', accept: 'application/json' };
    const answer = await send('put', {
      path: path.replace('{id}', sessions[index]!).replace('{n}', '0'),
      headers,
      body: JSON.stringify(step),
    });
    expect(answer.status).toBe(200);
    judge(path, 'put', operation, answer);
  }
});

it('answers what the document has, whatever is sent', { timeout: 240_000 }, async () => {
  const seen = new Map<number, number>();
  const wrong: string[] = [];
  for (const { path, method, operation } of operationsOf(document)) {
    // Deleting the sessions would leave nothing to try the others on.
    const spared = method === 'delete' && path === '/v1/sessions/{id}' ? sessions : [];
    for (const request of fc.sample(requestsOf(path, operation), { seed: SEED, numRuns: RUNS })) {
      if (spared.some((id) => request.path.includes(id))) continue;
      const answer = await send(method, request);
      seen.set(answer.status, (seen.get(answer.status) ?? 0) + 1);
      try {
        judge(path, method, operation, answer);
      } catch (error) {
        wrong.push(`${String(error)}\n${shown(method, request, answer)}`);
      }
      const made = answer.status === 201 ? answer.headers.get('location') : null;
      if (made !== null) await send('delete', { path: made, headers: {}, body: null });
    }
  }
  expect(wrong.join('\n\n')).toBe('');
  // Good and bad ones were among them.
  for (const status of [200, 201, 204, 400, 404, 412, 415, 422])
    expect(seen.get(status) ?? 0, String(status)).toBeGreaterThan(0);
  for (const id of sessions) await describeSession(stack.url, id);
});
