/** The client library through HTTP, judged by the dense float64 oracle. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConnectionError, DdpnoptClient, DdpnoptError, type StepInput } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { applyPolicies, configurationFor, relativeError, type OptimizerInput } from '../conformance/drive.ts';
import { ddpStep as oracleStep, terminalWeights, type Problem } from '../oracle/bellman.ts';
import { build } from '../oracle/matrix.ts';
import { kroneckerMetric, type LayerStatistics } from '../oracle/metric.ts';
import {
  backpropagate,
  forward,
  losses,
  mulberry32,
  prediction,
  randomBatch,
  randomProblem,
  type Batch,
  type Network,
} from '../oracle/network.ts';

let stack: LocalStack;
let client: DdpnoptClient;
beforeAll(async () => {
  stack = await startStack({ engine: 'reference' });
  client = new DdpnoptClient({ url: stack.url });
});
afterAll(() => stack.stop());

const WIDTHS = [6, 5, 4, 3];
const LOSS_SCALE = { floor: 0.5, ceiling: 100 };
const METRIC = { damping: 0.03, decay: 0.8 };
const ETA = 2;
const optimizer = (coupling: 'value' | 'feedback'): OptimizerInput => ({
  learningRate: { kind: 'constant', value: ETA },
  metric: { kind: 'kronecker', ...METRIC, refreshEvery: 1 },
  terminalCurvature: { kind: 'gradient', lossScale: LOSS_SCALE },
  coupling,
});

function scenario(count = 3): { network: Network; batches: Batch[] } {
  const { network, batch } = randomProblem({
    widths: WIDTHS,
    activation: 'tanh',
    loss: 'softmax-cross-entropy',
    batchSize: 8,
    seed: 3,
  });
  const random = mulberry32(4);
  return {
    network,
    batches: [
      batch,
      ...Array.from({ length: count - 1 }, () => randomBatch(random, WIDTHS, 'softmax-cross-entropy', 8)),
    ],
  };
}

/** What a client's passes over a batch yield, and what the oracle's metric averages of it. */
function passes(network: Network, batch: Batch): { input: StepInput; statistics: LayerStatistics[] } {
  const trajectory = forward(network, batch.inputs);
  const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
  const phi = losses(prediction(trajectory), batch.objective);
  const h = terminalWeights(phi, LOSS_SCALE);
  return {
    input: {
      losses: phi,
      layers: Object.fromEntries(
        inputs.map(({ data }, t) => [
          `layer${t}`,
          { input: Float64Array.from(data), outputGradient: Float64Array.from(outputGradients[t]!.data) },
        ]),
      ),
    },
    statistics: inputs.map((x, t) => ({ inputs: x, outputGradients: outputGradients[t]!, terminalWeights: h })),
  };
}

function problemOn(network: Network, batches: readonly Batch[]): Problem {
  const statistics = batches.map((batch) => passes(network, batch).statistics);
  return {
    network,
    batch: batches.at(-1)!,
    curvature: { kind: 'gradient', lossScale: LOSS_SCALE },
    controlMetrics: network.map((_, t) =>
      kroneckerMetric(
        statistics.map((layers) => layers[t]!),
        { ...METRIC, eta: ETA },
      ),
    ),
  };
}

describe('against the oracle', () => {
  it.each(['auto', 'sample-factors', 'inverse-factors'] as const)(
    'feedback, %s: the policies, applied in the second forward pass, after several batches',
    async (policyEncoding) => {
      const { network, batches } = scenario();
      const session = await client.createSession({
        layers: [...configurationFor(network, {}).layers],
        optimizer: optimizer('feedback'),
        policyEncoding,
      });
      for (const [n, batch] of batches.entries()) {
        const reply = await session.step(passes(network, batch).input);
        if (reply.kind !== 'policy') throw new Error('the reply carries no policy');
        const changes = applyPolicies([...reply.policies.values()], network, batch, 'network');
        const expected = oracleStep(problemOn(network, batches.slice(0, n + 1)), 'feedback').deltaU;
        expect(changes).toHaveLength(expected.length);
        for (const [t, change] of changes.entries()) expect(relativeError(change, expected[t]!)).toBeLessThan(1e-10);
        expect(session.nextStep).toBe(n + 1);
      }
      await session.delete();
    },
  );

  it.each([
    // Of how many batches the inverses are made that each step uses.
    { refreshLag: 0, averaged: [1, 1, 3, 3] },
    { refreshLag: 1, averaged: [1, 1, 1, 3] },
  ])(
    'inverse factors come again only when others are used, with a lag of $refreshLag',
    async ({ refreshLag, averaged }) => {
      const { network, batches } = scenario(averaged.length);
      const session = await client.createSession({
        layers: [...configurationFor(network, {}).layers],
        optimizer: { ...optimizer('feedback'), metric: { kind: 'kronecker', ...METRIC, refreshEvery: 2, refreshLag } },
        policyEncoding: 'inverse-factors',
      });
      const received: number[] = [];
      for (const [n, batch] of batches.entries()) {
        const reply = await session.step(passes(network, batch).input);
        if (reply.kind !== 'policy') throw new Error('the reply carries no policy');
        received.push(reply.bytesReceived);
        const changes = applyPolicies([...reply.policies.values()], network, batch, 'network');
        const problem = { ...problemOn(network, batches.slice(0, averaged[n])), batch };
        const expected = oracleStep(problem, 'feedback').deltaU;
        for (const [t, change] of changes.entries()) expect(relativeError(change, expected[t]!)).toBeLessThan(1e-10);
      }
      const triangle = (n: number): number => (n * (n + 1)) / 2;
      const inverses = WIDTHS.slice(1).reduce((sum, c, t) => sum + triangle(WIDTHS[t]! + 1) + triangle(c), 0);
      const carries = received.map((bytes) => bytes - Math.min(...received) >= 8 * inverses);
      expect(carries).toEqual(averaged.map((count, n) => n === 0 || count !== averaged[n - 1]));
      await session.delete();
    },
  );

  it('value: the update', async () => {
    const { network, batches } = scenario();
    const session = await client.createSession({
      layers: [...configurationFor(network, {}).layers],
      optimizer: optimizer('value'),
    });
    const reply = await session.step(passes(network, batches[0]!).input);
    if (reply.kind !== 'update') throw new Error('the reply carries no update');
    const expected = oracleStep(problemOn(network, batches.slice(0, 1)), 'value').deltaU;
    for (const [t, { weight, bias }] of [...reply.changes.values()].entries()) {
      const { rows, cols } = expected[t]!;
      const actual = build(rows, cols, (i, j) => (i < rows - 1 ? weight![i * cols + j]! : bias![j]!));
      expect(relativeError(actual, expected[t]!)).toBeLessThan(1e-10);
    }
    await session.delete();
  });
});

describe('when something is wrong', () => {
  it('throws the problem, and the step can be taken again with corrected input', async () => {
    const { network, batches } = scenario();
    const layers = [...configurationFor(network, {}).layers];
    const session = await client.createSession({ layers });
    const { input } = passes(network, batches[0]!);
    const bad = { ...input, losses: input.losses.map((loss, i) => (i === 2 ? Number.NaN : loss)) };
    const error: unknown = await session.step(bad).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(DdpnoptError);
    expect((error as DdpnoptError).problem).toMatchObject({ code: 'non_finite_value', param: 'losses' });
    expect((error as DdpnoptError).message).toContain('losses[2]');
    expect(session.nextStep).toBe(0);
    await session.step(input);
    expect(await session.describe()).toMatchObject({ nextStep: 1 });
    await session.delete();
    await expect(session.describe()).rejects.toMatchObject({ problem: { code: 'session_not_found' } });
  });

  it('refuses input that is not a batch before it is sent', async () => {
    const session = await client.createSession({ layers: [{ name: 'a', kind: 'dense', inputs: 2, outputs: 2 }] });
    const values = new Float64Array(4);
    const layers = { a: { input: values, outputGradient: values } };
    await expect(session.step({ losses: new Float64Array(3), layers })).rejects.toThrow(/layers\.a\.input/);
    await expect(session.step({ losses: new Float64Array(2), layers: {} })).rejects.toThrow(/layers\.a\.input/);
    await session.delete();
  });

  it('tells an address where nobody answers from a refusal', async () => {
    const nobody = new DdpnoptClient({ url: 'http://127.0.0.1:9' });
    await expect(nobody.createSession({ layers: [] })).rejects.toBeInstanceOf(ConnectionError);
    const page = new DdpnoptClient({ url: new URL('/docs/', stack.url) });
    await expect(page.openSession('x/../../../nothing')).rejects.toMatchObject({
      problem: { code: 'route_not_found' },
    });
  });

  it('stops when it is told to', async () => {
    const session = await client.createSession({ layers: [{ name: 'a', kind: 'dense', inputs: 2, outputs: 2 }] });
    const values = new Float64Array(4);
    const input = { losses: new Float64Array(2), layers: { a: { input: values, outputGradient: values } } };
    await expect(session.step(input, { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' });
    expect(session.nextStep).toBe(0);
    expect((await session.step(input)).metrics.step).toBe(0);
    await session.delete();
  });

  it('after a lost reply: the same step again is applied once, and another one is possible after resynchronising', async () => {
    const session = await client.createSession({ layers: [{ name: 'a', kind: 'dense', inputs: 2, outputs: 2 }] });
    const values = new Float64Array(4);
    const input = { losses: new Float64Array(2), layers: { a: { input: values, outputGradient: values } } };
    // A second client takes the step in the first one's place: to the first it is as if its reply had been lost.
    const other = await client.openSession(session.session.id);
    const { metrics } = await other.step(input);
    expect((await session.step(input)).metrics).toEqual(metrics);
    expect(await session.describe()).toMatchObject({ nextStep: 1 });

    const different = { ...input, losses: Float64Array.of(1, 2) };
    await other.step(input);
    await expect(session.step(different)).rejects.toMatchObject({ problem: { code: 'step_conflict' } });
    await session.resynchronise();
    expect((await session.step(different)).metrics.step).toBe(2);
    await session.delete();
  });

  it('refuses a second step before the reply to the first', async () => {
    const session = await client.createSession({ layers: [{ name: 'a', kind: 'dense', inputs: 2, outputs: 2 }] });
    const values = new Float64Array(4);
    const input = { losses: new Float64Array(2), layers: { a: { input: values, outputGradient: values } } };
    const first = session.step(input);
    await expect(session.step(input)).rejects.toThrow(/taking a step, or a run; wait for its end/);
    await first;
    expect((await session.step(input)).metrics.step).toBe(1);
    await session.delete();
  });

  it('takes an answer that is not the service’s for a connection error', async () => {
    const answers: [number, string, string][] = [
      [200, 'text/html', '<p>Welcome</p>'],
      [502, 'text/html', '<p>Bad gateway</p>'],
      [403, 'application/problem+json', '{"title": "Forbidden"}'],
    ];
    for (const [status, contentType, body] of answers) {
      const server = createServer((_, response) =>
        response.writeHead(status, { 'content-type': contentType }).end(body),
      );
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const { port } = server.address() as AddressInfo;
      const proxied = new DdpnoptClient({ url: `http://127.0.0.1:${port}` });
      await expect(proxied.createSession({ layers: [] })).rejects.toBeInstanceOf(ConnectionError);
      server.closeAllConnections();
      server.close();
    }
  });
});
