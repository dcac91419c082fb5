/** Checkpoints through the edge: made, listed, downloaded, imported elsewhere, gone on from, deleted. */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  DdpnoptClient,
  DdpnoptError,
  type HostedTrainingSession,
  type MiniBatchInput,
} from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { checkpointManifestSchema } from '../../shared/checkpoint.ts';
import type { HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { seededRandom } from '../../shared/random.ts';
import { readHeader, readValues, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { MODEL, randomStep } from '../conformance/bodies.ts';
import { call, create, expectProblem, json, LAYERS, newSession, putStep, stepBody } from './support.ts';

const HOSTED: Omit<HostedDefinitionInput, 'mode'> = {
  model: MODEL,
  loss: { kind: 'softmax-cross-entropy' },
};
const NOBODY = 'ckp_0123456789abcdef0123456789abcdef';

let stack: LocalStack;
let other: LocalStack;
let client: DdpnoptClient;
beforeAll(async () => {
  [stack, other] = await Promise.all([startStack({ engine: 'reference' }), startStack({ engine: 'reference' })]);
  client = new DdpnoptClient({ url: stack.url });
});
afterAll(() => Promise.all([stack.stop(), other.stop()]));

function batch(seed: number): MiniBatchInput {
  const random = seededRandom(seed);
  const x = Float32Array.from({ length: 6 * 5 }, () => 2 * random() - 1);
  return { x, y: Array.from({ length: 6 }, () => Math.floor(3 * random())) };
}

async function train(session: HostedTrainingSession, from: number, to: number): Promise<unknown[]> {
  const metrics: unknown[] = [];
  for (let n = from; n < to; n++) metrics.push(await session.step(batch(n)));
  return metrics;
}

const weightsOf = async (session: HostedTrainingSession): Promise<unknown> => [...(await session.weights())];

describe('a hosted session', () => {
  it('goes on from a checkpoint as it went on itself: here, and on another service after download and import', async () => {
    const session = await client.createHostedSession(HOSTED);
    await train(session, 0, 4);
    const checkpoint = await session.makeCheckpoint();
    expect(checkpoint).toMatchObject({ session: session.session.id, origin: 'request', mode: 'hosted', step: 4, engine: 'reference', expiresAt: null }); // prettier-ignore
    expect(await session.checkpoints()).toEqual([checkpoint]);
    const metrics = await train(session, 4, 8);
    const weights = await weightsOf(session);

    const resumed = await client.resumeHostedSession(checkpoint.id);
    expect(resumed.session.id).not.toBe(session.session.id);
    expect(resumed.session).toMatchObject({ model: session.session.model, nextStep: 4, metrics: { step: 3 } });
    expect(await train(resumed, 4, 8)).toEqual(metrics);
    expect(await weightsOf(resumed)).toEqual(weights);

    const file = await client.downloadCheckpoint(checkpoint.id);
    expect(file.length).toBe(checkpoint.bytes);
    const elsewhere = new DdpnoptClient({ url: other.url });
    const imported = await elsewhere.importCheckpoint(file);
    expect(imported).toMatchObject({ session: null, origin: 'import', step: 4, digest: checkpoint.digest });
    const moved = await elsewhere.resumeHostedSession(imported.id);
    expect(await train(moved, 4, 8)).toEqual(metrics);
    expect(await weightsOf(moved)).toEqual(weights);

    // The checkpoint outlives the session, and sessions made of it outlive the checkpoint.
    await session.delete();
    expect(await session.checkpoints()).toEqual([checkpoint]);
    await client.deleteCheckpoint(checkpoint.id);
    await expect(client.downloadCheckpoint(checkpoint.id)).rejects.toThrow(/checkpoint_not_found/);
    await expect(session.checkpoints()).rejects.toThrow(/session_not_found/);
    expect((await resumed.describe()).nextStep).toBe(8);
  });

  it('the file is safetensors, has the weights under their names, and proves itself by its digest', async () => {
    const session = await client.createHostedSession(HOSTED);
    await train(session, 0, 2);
    const { id, digest } = await session.makeCheckpoint();
    const file = await client.downloadCheckpoint(id);
    const header = readHeader(file);
    const entries = new Map(header.entries.map((entry) => [entry.name, entry]));
    for (const [name, { shape, values }] of await session.weights()) {
      const entry = entries.get(name)!;
      expect(entry.shape).toEqual(shape);
      expect(readValues(file, header, entry)).toEqual(values);
    }
    // As docs/operations.md states it.
    const hash = createHash('sha256').update(header.metadata['manifest']!);
    for (const { name, dtype, shape } of header.entries) hash.update(`${name}\t${dtype}\t${shape.join(',')}\n`);
    hash.update(file.subarray(header.dataStart));
    expect(header.metadata).toMatchObject({ format: 'ddpnopt-checkpoint', version: '1', digest });
    expect(hash.digest('hex')).toBe(digest);
    const manifest = checkpointManifestSchema.parse(JSON.parse(header.metadata['manifest']!));
    expect(manifest).toMatchObject({
      step: 2,
      engine: 'reference',
      metrics: { step: 1 },
      definition: { mode: 'hosted' },
    });
  });
});

describe('a session in layers mode', () => {
  it('goes on from a checkpoint; whoever is ahead of it is told where to resume', async () => {
    const { id } = await newSession(stack.url);
    for (let n = 0; n < 3; n++) await putStep(stack.url, id, n, stepBody(n));
    const made = await call(stack.url, 'POST', `/v1/sessions/${id}/checkpoints`);
    expect(made.status).toBe(201);
    const checkpoint = json(made) as { id: string };
    expect(made.headers.get('location')).toBe(`/v1/checkpoints/${checkpoint.id}`);
    const fourth = await putStep(stack.url, id, 3, stepBody(3));

    const answer = await create(stack.url, { fromCheckpoint: checkpoint.id, ttlSeconds: 60 });
    expect(answer.status).toBe(201);
    const session = json(answer) as { id: string };
    expect(session).toMatchObject({ mode: 'layers', nextStep: 3, durableStep: null, ttlSeconds: 60 });
    const problem = expectProblem(await putStep(stack.url, session.id, 4, stepBody(4)), { status: 409, code: 'session_rewound', mentions: ['4', '3'] }); // prettier-ignore
    expect(problem.resumeFrom).toBe(3);
    expectProblem(await putStep(stack.url, session.id, 2, stepBody(2)), { status: 410, code: 'reply_not_retained' });
    const again = await putStep(stack.url, session.id, 3, stepBody(3));
    expect(Buffer.compare(again.bytes, fourth.bytes)).toBe(0);
    expectProblem(await putStep(stack.url, session.id, 9, stepBody(9)), { status: 412, code: 'step_out_of_order' });
  });

  it('is not opened as one of the other mode, and none is left behind', async () => {
    const session = await client.createSession({ layers: LAYERS });
    const { id } = await session.makeCheckpoint();
    await expect(client.resumeHostedSession(id)).rejects.toThrow(/is in mode "layers"/);
    expect((await client.resumeSession(id)).nextStep).toBe(0);
  });
});

it('a session in kernel mode goes on from a checkpoint', async () => {
  const session = await client.createKernelSession({ layers: [{ name: 'a', factors: { inputs: 3, outputs: 2 } }], optimizer: { metric: { kind: 'kronecker' } } }); // prettier-ignore
  const { id, definition } = { id: session.session.id, definition: session.session };
  const random = seededRandom(3);
  const bodies = [0, 1, 2].map((n) => randomStep(definition, random, n));
  for (const n of [0, 1]) expect((await putStep(stack.url, id, n, bodies[n]!)).status).toBe(200);
  const resumed = await client.resumeKernelSession((await session.makeCheckpoint()).id);
  expect(resumed.nextStep).toBe(2);
  const [expected, actual] = await Promise.all(
    [id, resumed.session.id].map((of) => putStep(stack.url, of, 2, bodies[2]!)),
  );
  expect(expected!.status).toBe(200);
  expect(Buffer.compare(actual!.bytes, expected!.bytes)).toBe(0);
});

describe('what is refused', () => {
  it('a checkpoint that does not exist', async () => {
    const gone = { status: 404, code: 'checkpoint_not_found', param: 'id' } as const;
    for (const id of [NOBODY, 'ckp_', '%00', 'x']) {
      expectProblem(await call(stack.url, 'GET', `/v1/checkpoints/${id}`), gone);
      expectProblem(await call(stack.url, 'DELETE', `/v1/checkpoints/${id}`), gone);
    }
    expectProblem(await create(stack.url, { fromCheckpoint: NOBODY }), gone);
    expectProblem(await call(stack.url, 'GET', `/v1/sessions/ses_${'0'.repeat(32)}/checkpoints`), {
      status: 404,
      code: 'session_not_found',
    });
  });

  it.each([
    { document: { fromCheckpoint: 'x' }, param: 'fromCheckpoint' },
    { document: { fromCheckpoint: 3 }, param: 'fromCheckpoint' },
    { document: { fromCheckpoint: NOBODY, ttlSeconds: 1 }, param: 'ttlSeconds' },
    { document: { fromCheckpoint: NOBODY, seed: 1 }, param: 'seed' },
  ])('$document', async ({ document, param }) => {
    expectProblem(await create(stack.url, document), { status: 422, code: 'invalid_parameter', param });
  });

  it('a file that is damaged or something else, in words that name the fault', async () => {
    const session = await client.createHostedSession(HOSTED);
    await train(session, 0, 1);
    const file = await client.downloadCheckpoint((await session.makeCheckpoint()).id);
    const flipped = file.slice();
    flipped[flipped.length - 5]! ^= 1;
    const send = (body: Uint8Array<ArrayBuffer>) =>
      call(stack.url, 'POST', '/v1/checkpoints', { body, type: SAFETENSORS_CONTENT_TYPE });
    expectProblem(await send(flipped), { status: 422, code: 'invalid_checkpoint', param: '__metadata__.digest' });
    expectProblem(await send(file.slice(0, -8)), { status: 422, code: 'length_mismatch' });
    expectProblem(await send(stepBody(1)), { status: 422, code: 'invalid_checkpoint', param: '__metadata__.format' });
    expectProblem(await send(new Uint8Array(3)), { status: 422, code: 'length_mismatch' });
    expectProblem(await call(stack.url, 'POST', '/v1/checkpoints', { body: file, type: 'text/plain' }), {
      status: 415,
      code: 'unsupported_media_type',
    });
    await expect(client.importCheckpoint(flipped)).rejects.toBeInstanceOf(DdpnoptError);
  });
});
