/** The compute thread from outside: what crosses it, what ends it, and in which order it works. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { startComputeThread, type ComputeThread } from '../../gpu-worker/engine/compute-thread.ts';
import { toError, toFailure } from '../../gpu-worker/thread/failure.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import type { EngineName } from '../../gpu-worker/tensor/engine.ts';
import { Trainers } from '../../gpu-worker/training/trainers.ts';
import { ProblemError } from '../../shared/errors.ts';
import { encode } from '../../shared/safetensors.ts';
import {
  newSessionId,
  sessionDefinitionSchema,
  type SessionDefinition,
  type SessionDefinitionInput,
} from '../../shared/session.ts';
import { LAYERS, stepBody } from '../e2e/support.ts';

const LAYERED: SessionDefinitionInput = { layers: LAYERS };
const HOSTED: SessionDefinitionInput = {
  mode: 'hosted',
  model: { input: [3], layers: [{ kind: 'dense', name: 'a', outputs: 2 }] },
  loss: { kind: 'mse' },
};

const definitionOf = (input: SessionDefinitionInput): SessionDefinition => sessionDefinitionSchema.parse(input);

/** A hosted step or, without a truth, a prediction. */
function hostedBody(seed: number, withTruth = true): Uint8Array<ArrayBuffer> {
  const x = { name: 'x', shape: [2, 3], values: Float32Array.from([1, 2, 3, 4, 5, 6], (value) => value / (seed + 7)) };
  return encode(withTruth ? [x, { name: 'y', shape: [2, 2], values: Float32Array.of(1, 0, 0, 1) }] : [x]);
}

async function start(): Promise<ComputeThread> {
  const thread = await startComputeThread({ engine: 'reference' });
  onTestFinished(() => thread.stop());
  return thread;
}

const reasonOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'no error',
    (reason: unknown) => reason,
  );

describe('what crosses it', () => {
  it('results: those of the trainers on this thread', async () => {
    const { compute } = await start();
    const here = new Trainers(createReferenceEngine());
    const [layered, hosted] = [newSessionId(), newSessionId()];
    for (const [id, input] of [
      [layered, LAYERED],
      [hosted, HOSTED],
    ] as const) {
      await compute.open(id, definitionOf(input));
      here.open(id, definitionOf(input));
    }
    expect(compute.engine).toBe('reference');
    for (const seed of [1, 2]) {
      // The body comes back for whoever keeps it.
      for (const [id, body] of [
        [layered, stepBody(seed)],
        [hosted, hostedBody(seed)],
      ] as const) {
        expect(await compute.step(id, body.slice())).toEqual({ ...here.step(id, body), body });
      }
    }
    expect(await compute.weights(hosted)).toEqual(here.weights(hosted));
    expect(await compute.predict(hosted, hostedBody(3))).toEqual(here.predict(hosted, hostedBody(3)));
  });

  it('a refresh after the answer: the steps are those of a trainer that refreshes when it must', async () => {
    const { compute } = await start();
    const here = new Trainers(createReferenceEngine());
    const id = newSessionId();
    const optimizer = { metric: { kind: 'kronecker', refreshEvery: 2, refreshLag: 1 } } as const;
    await compute.open(id, definitionOf({ ...HOSTED, optimizer }));
    here.open(id, definitionOf({ ...HOSTED, optimizer }));
    const refreshed: boolean[] = [];
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const { metrics, answer } = await compute.step(id, hostedBody(seed));
      expect({ metrics, answer }).toEqual(here.step(id, hostedBody(seed)));
      refreshed.push(metrics.refreshed);
    }
    expect(refreshed).toEqual([true, false, false, true, false, true]);
  });

  it('a refresh that was under way when the options changed: the step that uses it first says so', () => {
    const here = new Trainers(createReferenceEngine());
    const id = newSessionId();
    const withMetric = (refreshEvery: number): SessionDefinition =>
      definitionOf({ ...HOSTED, optimizer: { metric: { kind: 'kronecker', refreshEvery, refreshLag: 2 } } });
    here.open(id, withMetric(4));
    const refreshed: boolean[] = [];
    for (let n = 0; n < 12; n++) {
      // The refresh that begins with step 4 ends with step 6, whatever holds by then; the next one begins with step 7.
      if (n === 5) here.redefine(id, withMetric(7));
      refreshed.push(here.step(id, hostedBody(n)).metrics.refreshed);
    }
    const steps = refreshed.flatMap((isFirst, n) => (isFirst ? [n] : []));
    expect(steps).toEqual([0, 6, 9]);
  });

  it('a problem, with its code and details, and the session goes on', async () => {
    const { compute } = await start();
    const id = newSessionId();
    await compute.open(id, definitionOf(LAYERED));
    const nan = stepBody(1);
    nan.fill(0xff, -4);
    const here = new Trainers(createReferenceEngine());
    here.open(id, definitionOf(LAYERED));
    let expected: unknown;
    try {
      here.step(id, nan.slice());
    } catch (error) {
      expected = error;
    }
    if (!(expected instanceof ProblemError)) throw new Error('the step is good');
    const actual = await reasonOf(compute.step(id, nan));
    expect(actual).toBeInstanceOf(ProblemError);
    expect(actual).toMatchObject({ code: 'non_finite_value', details: expected.details, message: expected.message });
    expect((await compute.step(id, stepBody(1))).metrics.step).toBe(0);
  });

  it('every detail of a problem', () => {
    const details = { detail: 'Step 3 was sent.', remedy: 'Send step 2.', param: 'n', expectedStep: 2 };
    const error = toError(structuredClone(toFailure(new ProblemError('step_out_of_order', details))));
    expect(error).toBeInstanceOf(ProblemError);
    expect(error).toMatchObject({ code: 'step_out_of_order', details, status: 412 });
  });

  it('problems of sessions: not hosted, never opened, closed', async () => {
    const { compute } = await start();
    const [layered, closed] = [newSessionId(), newSessionId()];
    await compute.open(layered, definitionOf(LAYERED));
    await expect(compute.weights(layered)).rejects.toMatchObject({ code: 'not_hosted' });
    await expect(compute.predict(layered, hostedBody(1))).rejects.toMatchObject({ code: 'not_hosted' });
    await expect(compute.step(newSessionId(), stepBody(1))).rejects.toMatchObject({ code: 'session_not_found' });
    await compute.open(closed, definitionOf(HOSTED));
    compute.close(closed);
    await expect(compute.weights(closed)).rejects.toMatchObject({
      code: 'session_not_found',
      details: { param: 'id' },
    });
  });

  it('a defect, with its name and stack', async () => {
    const { compute } = await start();
    // No definition that the schema lets through: the trainers meet what cannot be.
    const broken = { ...definitionOf(HOSTED), model: null } as unknown as SessionDefinition;
    const reason = await reasonOf(compute.open(newSessionId(), broken));
    expect(reason).toBeInstanceOf(Error);
    expect(reason).not.toBeInstanceOf(ProblemError);
    expect((reason as Error).name).toBe('TypeError');
    expect((reason as Error).stack).toMatch(/hosted-step\.ts/);

    // What a trap in the engine's WebAssembly is told by.
    const thrown = Object.assign(new Error('unreachable'), { name: 'RuntimeError' });
    const trap = toError(structuredClone(toFailure(thrown)));
    expect(trap).toMatchObject({ name: 'RuntimeError', message: 'unreachable' });
    expect(trap.stack).toContain('compute-thread.test.ts');
    expect(toError(structuredClone(toFailure('a text'))).message).toBe('a text');
  });

  it('buffers, which are moved and not copied', async () => {
    const { compute } = await start();
    const id = newSessionId();
    await compute.open(id, definitionOf(HOSTED));
    for (const [send, body] of [
      [compute.step, hostedBody(1)],
      [compute.predict, hostedBody(2)],
    ] as const) {
      expect(body.length).toBeGreaterThan(0);
      const answered = send(id, body);
      expect(body.buffer.detached).toBe(true);
      expect(body.length).toBe(0);
      await answered;
    }
  });
});

describe('the order of its work', () => {
  it('keeps interleaved sessions apart', async () => {
    const { compute } = await start();
    const ids = [0, 1, 2].map(() => newSessionId());
    const seeds = (session: number): number[] => [1, 2, 3, 4].map((k) => 10 * session + k);
    await Promise.all(ids.map((id) => compute.open(id, definitionOf(HOSTED))));
    // All asked for at once, a step of each session in turn.
    const replies = await Promise.all(
      [0, 1, 2, 3].flatMap((n) => ids.map((id, session) => compute.step(id, hostedBody(seeds(session)[n]!)))),
    );
    expect(replies.map(({ metrics }) => metrics.step)).toEqual([0, 1, 2, 3].flatMap((n) => [n, n, n]));
    for (const [session, id] of ids.entries()) {
      const here = new Trainers(createReferenceEngine());
      here.open(id, definitionOf(HOSTED));
      const alone = seeds(session).map((seed) => ({ ...here.step(id, hostedBody(seed)), body: hostedBody(seed) }));
      expect(replies.filter((_, index) => index % 3 === session)).toEqual(alone);
      expect(await compute.weights(id)).toEqual(here.weights(id));
    }
  });

  it('one session’s requests are answered as of when they were made', async () => {
    const { compute } = await start();
    const id = newSessionId();
    const opened = compute.open(id, definitionOf(HOSTED));
    const before = compute.weights(id);
    const stepped = compute.step(id, hostedBody(1));
    const after = compute.weights(id);
    compute.close(id);
    const gone = reasonOf(compute.weights(id));
    await opened;
    expect((await stepped).metrics.step).toBe(0);
    expect(await before).not.toEqual(await after);
    expect(await gone).toMatchObject({ code: 'session_not_found' });
  });
});

describe('its end', () => {
  const ENDED = /the compute thread ended with code 1/;

  it('stop() rejects what waits, and what is asked afterwards', async () => {
    const { compute, failed, stop } = await start();
    const id = newSessionId();
    await compute.open(id, definitionOf(HOSTED));
    const waiting = [reasonOf(compute.step(id, hostedBody(1))), reasonOf(compute.weights(id))];
    compute.close(id);
    await stop();
    for (const reason of await Promise.all(waiting)) expect(String(reason)).toMatch(ENDED);
    await expect(compute.open(newSessionId(), definitionOf(HOSTED))).rejects.toThrow(ENDED);
    await expect(compute.predict(id, hostedBody(1))).rejects.toThrow(ENDED);
    compute.close(id);
    // Told to stop, it has not failed, though a session was still to be closed.
    const turn = new Promise((resolve) => setImmediate(resolve, 'not failed'));
    expect(await Promise.race([reasonOf(failed), turn])).toBe('not failed');
  });

  it('an engine that does not load is named, once', async () => {
    const started = startComputeThread({ engine: 'abacus' as EngineName });
    await expect(started).rejects.toThrow(/^there is no tensor engine "abacus"$/);
  });
});
