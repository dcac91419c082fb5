/** Bodies that lie about their length, stop early or never start: byte by byte, through a socket. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { LIMITS } from '../../shared/limits.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import {
  call,
  describeSession,
  expectProblem,
  newSession,
  putStep,
  rawRequest,
  stepBody,
  type Answer,
  type RawRequest,
} from './support.ts';

let stack: LocalStack;
let id: string;
let undisturbed: string;
let step = 0;
beforeAll(async () => {
  stack = await startStack({ engine: 'reference' });
  id = (await newSession(stack.url)).id;
  undisturbed = (await newSession(stack.url)).id;
});
afterAll(() => stack.stop());

function send(
  length: number | string,
  body: readonly Uint8Array[],
  then: RawRequest['then'] = 'wait',
): Promise<Answer | null> {
  return rawRequest(stack.url, {
    method: 'PUT',
    path: `/v1/sessions/${id}/steps/${step}`,
    headers: { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': String(length) },
    body,
    then,
  });
}

/** The session still expects the same step, and gives it the reply it would have given anyway. */
async function expectUndisturbed(): Promise<void> {
  expect((await describeSession(stack.url, id)).nextStep).toBe(step);
  const body = stepBody(step);
  const actual = await putStep(stack.url, id, step, body);
  const expected = await putStep(stack.url, undisturbed, step, body);
  step++;
  expect([actual.status, expected.status]).toEqual([200, 200]);
  expect(Buffer.compare(actual.bytes, expected.bytes)).toBe(0);
}

it('a whole step, in pieces of one byte around the header', async () => {
  const body = stepBody(step);
  const pieces = [...body.subarray(0, 30)].map((byte) => Uint8Array.of(byte));
  const answer = await send(body.length, [...pieces, body.subarray(30)]);
  expect(answer?.status).toBe(200);
  expect((await putStep(stack.url, undisturbed, step, body)).status).toBe(200);
  step++;
  await expectUndisturbed();
});

describe('a body that stops early', () => {
  const body = stepBody(5);
  const headerLength = Number(new DataView(body.buffer).getBigUint64(0, true));

  it.each([
    { where: 'before its first byte', length: 0 },
    { where: 'in the length of the header', length: 4 },
    { where: 'in the header', length: 100 },
    { where: 'right behind the header', length: 8 + headerLength },
    { where: 'in the tensors', length: body.length - 40 },
    { where: 'one byte before its end', length: body.length - 1 },
  ])('$where: the session goes on', async ({ length }) => {
    const part = body.subarray(0, length);
    await send(body.length, [part], 'destroy');
    await expectUndisturbed();
    const answer = await send(body.length, [part], 'end');
    if (answer !== null) {
      expectProblem(answer, { status: 400, code: 'truncated_body', mentions: [String(body.length)] });
    }
    await expectUndisturbed();
  });

  it('a large one, in the middle', async () => {
    const layers = [{ name: 'fc1', kind: 'dense', inputs: 5000, outputs: 10 } as const];
    const large = await newSession(stack.url, { layers, optimizer: { metric: { kind: 'identity' } } });
    const bytes = stepBody(1, layers, 200);
    const path = `/v1/sessions/${large.id}/steps/0`;
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': String(bytes.length) };
    await rawRequest(stack.url, {
      method: 'PUT',
      path,
      headers,
      body: [bytes.subarray(0, bytes.length / 2)],
      then: 'destroy',
    });
    expect((await describeSession(stack.url, large.id)).nextStep).toBe(0);
    await expectUndisturbed();
  });
});

describe('a body over the limit', () => {
  const chunk = new Uint8Array(1_000_000);

  it('is refused by its announced length while the client still writes', async () => {
    const length = LIMITS.bodyBytes + 1;
    const chunks = [...new Array<Uint8Array>(100).fill(chunk), new Uint8Array(1)];
    const answer = await send(length, chunks);
    expectProblem(answer!, {
      status: 413,
      code: 'body_too_large',
      param: 'Content-Length',
      mentions: [String(length), String(LIMITS.bodyBytes)],
    });
    await expectUndisturbed();
  });

  it.each([LIMITS.bodyBytes + 1, 1e15])(
    'is refused to a client that waits for leave to send %d bytes',
    async (length) => {
      const answer = await rawRequest(stack.url, {
        method: 'PUT',
        path: `/v1/sessions/${id}/steps/${step}`,
        headers: {
          'content-type': SAFETENSORS_CONTENT_TYPE,
          'content-length': String(length),
          expect: '100-continue',
        },
      });
      expectProblem(answer!, { status: 413, code: 'body_too_large', mentions: [String(length)] });
      await expectUndisturbed();
    },
  );
});

describe('a length that is none', () => {
  it.each(['abc', '-1', '1.5', '1e3'])('%s', async (length) => {
    const answer = await send(length, []);
    expect(answer?.status).toBeGreaterThanOrEqual(400);
    expect(answer?.status).toBeLessThan(500);
    await expectUndisturbed();
  });
});

it('two requests on one connection, the first refused: the second is answered', async () => {
  const bad = await call(stack.url, 'PUT', `/v1/sessions/${id}/steps/${step}`, {
    body: new Uint8Array(100_000),
    type: 'x/y',
  });
  expectProblem(bad, { status: 415, code: 'unsupported_media_type' });
  await expectUndisturbed();
});
