/** What the end-to-end tests share: requests as a client sends them, bodies good and bad, and the checks of an answer. */
import { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { expect } from 'vitest';
import { PROBLEM_CONTENT_TYPE, problemSchema, type Problem, type ProblemCode } from '../../shared/errors.ts';
import { encode, SAFETENSORS_CONTENT_TYPE, type NamedTensor } from '../../shared/safetensors.ts';
import type { LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { sessionSchema, type Session, type SessionDefinitionInput } from '../../shared/session.ts';
import { mulberry32 } from '../oracle/network.ts';

/** Two layers, few samples: every test of a step sends these unless it says otherwise. */
export const LAYERS: LayersDefinitionInput['layers'] = [
  { name: 'fc1', kind: 'dense', inputs: 5, outputs: 4 },
  { name: 'fc2', kind: 'dense', inputs: 4, outputs: 3, bias: false },
];
export const BATCH = 6;

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Uint8Array;
}

type Body = NonNullable<RequestInit['body']>;

export interface CallOptions {
  readonly body?: Body;
  readonly type?: string;
  readonly accept?: string;
}

export async function call(url: string, method: string, path: string, options: CallOptions = {}): Promise<Answer> {
  const response = await fetch(new URL(path, url), {
    method,
    ...(options.body === undefined ? {} : { body: options.body, duplex: 'half' }),
    headers: {
      ...(options.type === undefined ? {} : { 'content-type': options.type }),
      ...(options.accept === undefined ? {} : { accept: options.accept }),
    },
  });
  return { status: response.status, headers: response.headers, bytes: new Uint8Array(await response.arrayBuffer()) };
}

/** A request, sent again as long as the service says that a later try may succeed. */
export async function persistent(request: () => Promise<Answer>): Promise<Answer> {
  for (;;) {
    const answer = await request();
    if (answer.headers.get('retry-after') === null) return answer;
    // Whoever asks without a pause takes time from whom it waits for.
    await pause(10);
  }
}

export function json(answer: Answer): unknown {
  return JSON.parse(new TextDecoder().decode(answer.bytes));
}

export function create(url: string, definition: unknown): Promise<Answer> {
  return call(url, 'POST', '/v1/sessions', { body: JSON.stringify(definition), type: 'application/json' });
}

export async function newSession(
  url: string,
  definition: SessionDefinitionInput = { layers: LAYERS },
): Promise<Session> {
  const answer = await create(url, definition);
  expect(answer.status).toBe(201);
  return sessionSchema.parse(json(answer));
}

export async function describeSession(url: string, id: string): Promise<Session> {
  // Where it is just being taken over, that passes.
  const answer = await persistent(() => call(url, 'GET', `/v1/sessions/${id}`));
  expect(answer.status).toBe(200);
  return sessionSchema.parse(json(answer));
}

export function putStep(url: string, id: string, n: number | string, body: Body): Promise<Answer> {
  return call(url, 'PUT', `/v1/sessions/${id}/steps/${n}`, { body, type: SAFETENSORS_CONTENT_TYPE });
}

export function getStep(url: string, id: string, n: number | string): Promise<Answer> {
  return call(url, 'GET', `/v1/sessions/${id}/steps/${n}`);
}

/** The tensors of a correct step; another seed gives another batch. */
export function stepTensors(seed: number, layers = LAYERS, batch = BATCH): NamedTensor[] {
  const random = mulberry32(seed);
  const filled = (name: string, shape: readonly number[]): NamedTensor => ({
    name,
    shape,
    values: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * random() - 1),
  });
  const losses = filled('losses', [batch]);
  return [
    { ...losses, values: losses.values.map((value) => value + 1.5) },
    ...layers.flatMap((layer) => {
      if (layer.kind !== 'dense') throw new Error('these tensors are for dense layers');
      const { name, inputs, outputs } = layer;
      return [filled(`layers.${name}.input`, [batch, inputs]), filled(`layers.${name}.output_grad`, [batch, outputs])];
    }),
  ];
}

export function stepBody(seed: number, layers = LAYERS, batch = BATCH): Uint8Array<ArrayBuffer> {
  return encode(stepTensors(seed, layers, batch));
}

/** A correct step's body with some of its tensors replaced. */
export function stepBodyWith(seed: number, ...replaced: readonly NamedTensor[]): Uint8Array<ArrayBuffer> {
  return encode(stepTensors(seed).map((tensor) => replaced.find(({ name }) => name === tensor.name) ?? tensor));
}

interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** The header of a body as a document that a test can spoil. */
export function headerOf(body: Uint8Array): { header: Record<string, HeaderEntry>; data: Uint8Array } {
  const length = Number(new DataView(body.buffer, body.byteOffset).getBigUint64(0, true));
  const header: unknown = JSON.parse(new TextDecoder().decode(body.subarray(8, 8 + length)));
  return { header: header as Record<string, HeaderEntry>, data: body.subarray(8 + length) };
}

/** A body with any text as header, right or wrong. */
export function rawBody(
  header: string,
  data: Uint8Array,
  announced = BigInt(Buffer.byteLength(header)),
): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(header);
  const body = new Uint8Array(8 + text.length + data.length);
  new DataView(body.buffer).setBigUint64(0, announced, true);
  body.set(text, 8);
  body.set(data, 8 + text.length);
  return body;
}

/** Elements of any type the format knows, as they lie in memory. */
export interface RawTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly values: ArrayBufferView<ArrayBuffer>;
}

/** A body of tensors of any type, in the order given. */
export function encodeRaw(tensors: readonly RawTensor[]): Uint8Array<ArrayBuffer> {
  let end = 0;
  const header = tensors.map(({ name, dtype, shape, values }) => {
    const begin = end;
    end += values.byteLength;
    return [name, { dtype, shape, data_offsets: [begin, end] }] as const;
  });
  const data = new Uint8Array(end);
  for (const [index, { values }] of tensors.entries()) {
    data.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), header[index]![1].data_offsets[0]);
  }
  return rawBody(JSON.stringify(Object.fromEntries(header)), data);
}

/** A correct step's body whose header the test spoils. */
export function spoiled(seed: number, spoil: (header: Record<string, HeaderEntry>) => void): Uint8Array<ArrayBuffer> {
  const { header, data } = headerOf(stepBody(seed));
  spoil(header);
  return rawBody(JSON.stringify(header), data);
}

/** The same step in two sessions: answered with the same bytes, whatever either has been sent in between. */
export async function expectSameStep(
  url: string,
  sessions: readonly [string, string],
  n: number,
  body: Uint8Array<ArrayBuffer>,
): Promise<void> {
  const expected = await putStep(url, sessions[0], n, body);
  const actual = await putStep(url, sessions[1], n, body);
  expect([expected.status, actual.status]).toEqual([200, 200]);
  expect(Buffer.compare(actual.bytes, expected.bytes)).toBe(0);
}

export interface ExpectedProblem {
  readonly status: number;
  readonly code: ProblemCode;
  readonly param?: string | undefined;
  /** Texts the detail must contain: the value or name at fault. */
  readonly mentions?: readonly string[] | undefined;
}

export function expectProblem(answer: Answer, expected: ExpectedProblem): Problem {
  const text = new TextDecoder().decode(answer.bytes);
  expect({ status: answer.status, text }).toMatchObject({ status: expected.status });
  expect(answer.headers.get('content-type')).toBe(PROBLEM_CONTENT_TYPE);
  const problem = problemSchema.parse(JSON.parse(text));
  expect(problem).toMatchObject({
    type: `/problems/${expected.code}`,
    status: expected.status,
    code: expected.code,
    ...(expected.param === undefined ? {} : { param: expected.param }),
  });
  for (const mention of expected.mentions ?? []) expect(problem.detail).toContain(mention);
  expect(problem.title).not.toBe('');
  expect(problem.detail).not.toBe('');
  expect(problem.remedy).not.toBe('');
  expect(problem.request_id).toMatch(/^\S+$/);
  expect(answer.headers.get('x-request-id')).toBe(problem.request_id);
  expect(answer.headers.get('retry-after') !== null).toBe(problem.retryable);
  return problem;
}

export interface RawRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: readonly Uint8Array[];
  /** What the sender does after the last byte: waits for the answer, ends its half of the connection, or breaks it off. */
  readonly then?: 'wait' | 'end' | 'destroy';
}

/** A request byte by byte, for what fetch does not let through. Null if the connection ends without an answer. */
export async function rawRequest(url: string, request: RawRequest): Promise<Answer | null> {
  const { hostname, port } = new URL(url);
  const lines = Object.entries({ host: `${hostname}:${port}`, connection: 'close', ...request.headers });
  const head = `${request.method} ${request.path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
  const socket = new Socket();
  const chunks: Buffer[] = [];
  const closed = new Promise<void>((resolve, reject) => {
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.once('end', resolve);
    socket.once('close', resolve);
    socket.once('error', reject);
  });
  socket.connect(Number(port), hostname);
  socket.write(head);
  for (const chunk of request.body ?? []) {
    if (socket.readableEnded || socket.destroyed) break;
    if (!socket.write(chunk)) await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), closed]);
  }
  if (request.then === 'end') socket.end();
  if (request.then === 'destroy') {
    // Not before the bytes have left, or the service would see no request at all.
    await new Promise((resolve) => socket.write('', resolve));
    socket.destroy();
  }
  await closed;
  socket.destroy();
  return parseAnswer(Buffer.concat(chunks));
}

function parseAnswer(bytes: Buffer): Answer | null {
  let rest = bytes;
  for (;;) {
    const end = rest.indexOf('\r\n\r\n');
    if (end < 0) return null;
    const [first = '', ...lines] = rest.subarray(0, end).toString('latin1').split('\r\n');
    const status = Number(first.split(' ')[1]);
    rest = rest.subarray(end + 4);
    if (status < 200) continue;
    const headers = new Headers(
      lines.map((line): [string, string] => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon), line.slice(colon + 1).trim()];
      }),
    );
    return { status, headers, bytes: headers.get('transfer-encoding') === 'chunked' ? dechunk(rest) : rest };
  }
}

function dechunk(bytes: Buffer): Uint8Array {
  const parts: Buffer[] = [];
  let rest = bytes;
  for (;;) {
    const end = rest.indexOf('\r\n');
    const size = Number.parseInt(rest.subarray(0, end).toString('latin1'), 16);
    if (!(size > 0)) return Buffer.concat(parts);
    parts.push(rest.subarray(end + 2, end + 2 + size));
    rest = rest.subarray(end + 4 + size);
  }
}
