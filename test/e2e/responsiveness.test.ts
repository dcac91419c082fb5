/** While a step is computed, what needs no computing is answered: judged by the order of the answers, not by time. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { problemSchema } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { encode } from '../../shared/safetensors.ts';
import { sessionSchema } from '../../shared/session.ts';
import { mulberry32 } from '../oracle/network.ts';
import {
  call,
  describeSession,
  expectProblem,
  getStep,
  json,
  newSession,
  putStep,
  stepBody,
  type Answer,
} from './support.ts';

let worker: ServiceProcess;
let edge: ServiceProcess;
beforeAll(async () => {
  worker = await startWorker({ port: 0, engine: 'wasm' });
  edge = await startEdge({ port: 0, workerUrl: worker.ready.url });
});
afterAll(async () => {
  await edge.stop();
  await worker.stop();
});

/** A step of few bytes whose computation takes the longer the more samples it has. */
function longStep(seed: number, samples: number): Uint8Array<ArrayBuffer> {
  const random = mulberry32(seed);
  return encode([
    { name: 'x', shape: [samples, 16], values: Float32Array.from({ length: samples * 16 }, () => 2 * random() - 1) },
    { name: 'y', shape: [samples], values: Float32Array.from({ length: samples }, () => Math.floor(10 * random())) },
  ]);
}

const codeOf = (answer: Answer): string => (answer.status === 200 ? 'applied' : problemSchema.parse(json(answer)).code);

/** Sends step n of one session, and while it is computed what needs no computing. @returns whether all that came first */
async function isAnsweredDuring(n: number, samples: number, busy: string, other: string): Promise<boolean> {
  const { url } = edge.ready;
  const before = await describeSession(url, other);
  const answered: string[] = [];
  const noted = async (name: string, request: Promise<Answer>): Promise<Answer> => {
    const answer = await request;
    answered.push(name);
    return answer;
  };
  // Six bodies for one step: four may wait, so that a refusal for want of room says that one is being computed.
  const steps = [1, 2, 3, 4, 5, 6].map((seed) => noted('step', putStep(url, busy, n, longStep(seed, samples))));
  let isFirst = codeOf(await Promise.race(steps)) === 'queue_full';

  expect(json(await noted('edge', call(url, 'GET', '/healthz')))).toEqual({ status: 'ok' });
  expect(json(await noted('ready', call(url, 'GET', '/readyz')))).toEqual({ status: 'ok' });
  const health = await noted('worker', call(worker.ready.url, 'GET', '/healthz'));
  expect(json(health)).toEqual({ status: 'ok', engine: 'wasm', sessions: 2 });
  const described = await noted('other', call(url, 'GET', `/v1/sessions/${other}`));
  expect(json(described)).toMatchObject({ id: other, nextStep: before.nextStep, metrics: before.metrics });
  expect((await noted('reply', getStep(url, other, before.nextStep - 1))).status).toBe(200);
  expectProblem(await noted('ahead', putStep(url, other, 99, stepBody(1))), { status: 412, code: 'step_out_of_order' });
  const { nextStep } = sessionSchema.parse(json(await noted('busy', call(url, 'GET', `/v1/sessions/${busy}`))));
  isFirst &&= !answered.includes('step', 1);
  if (isFirst) expect(nextStep).toBe(n);

  // What needs computing comes in its turn.
  const next = putStep(url, other, before.nextStep, stepBody(2));
  const codes = (await Promise.all(steps)).map(codeOf);
  expect(codes.filter((code) => code === 'applied')).toHaveLength(1);
  expect(codes.filter((code) => code === 'step_conflict' || code === 'queue_full')).toHaveLength(5);
  expect((await next).status).toBe(200);
  expect((await describeSession(url, busy)).nextStep).toBe(n + 1);
  return isFirst;
}

it('health checks and other sessions are answered before the step that is being computed', async () => {
  const { url } = edge.ready;
  const layers = [...[0, 1].flatMap((t) => [{ kind: 'dense', name: `l${t}`, outputs: 512 } as const, { kind: 'relu' } as const]), { kind: 'dense', name: 'out', outputs: 10 } as const]; // prettier-ignore
  const { id: busy } = await newSession(url, {
    mode: 'hosted',
    model: { input: [16], layers },
    loss: { kind: 'softmax-cross-entropy' },
  });
  const { id: other } = await newSession(url);
  expect((await putStep(url, other, 0, stepBody(1))).status).toBe(200);
  // A worker that answered nothing while it computes would never do so first. One that is slow to answer gets longer steps.
  let n = 0;
  for (let samples = 512; !(await isAnsweredDuring(n, samples, busy, other)); n++) {
    samples = Math.min(2 * samples, LIMITS.batch);
    expect(n).toBeLessThan(8);
  }
});
