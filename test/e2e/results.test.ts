/** Trials of bench:results as they are run: through a service of their own over HTTP, and in PyTorch where it is installed. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { withFiles } from '../../bench/part-files.ts';
import type { Parts } from '../../bench/parts.ts';
import { peersInstalled } from '../../bench/peers/environment.ts';
import { loadParts } from '../../bench/results/data.ts';
import { PeerTrials } from '../../bench/results/peer.ts';
import { ServiceTrials } from '../../bench/results/service.ts';
import { trialOf, WINE, type Task } from '../../bench/results/tasks.ts';
import type { Outcome } from '../../bench/results/trial.ts';

const TASK: Task = { ...WINE, epochs: 2 };
let service: ServiceTrials;
let parts: Parts;
beforeAll(async () => {
  parts = await loadParts(TASK.dataSet);
  service = await ServiceTrials.start('wasm');
});
afterAll(() => service.stop());

function timeless({ points, validation }: Outcome): unknown {
  return [points.map((point) => ({ ...point, seconds: 0 })), validation];
}

it('the parts are standardised, share no sample, and are as large as the pages say', () => {
  expect([parts.train.size, parts.validation.size, parts.test.size]).toEqual([106, 36, 36]);
  expect(parts.test.size).toBe(TASK.testSamples);
  const rows = [parts.train, parts.validation, parts.test].flatMap(({ size, features, inputs }) =>
    Array.from({ length: size }, (_, sample) => inputs.subarray(sample * features, (sample + 1) * features).join()),
  );
  expect(new Set(rows).size).toBe(178);
  const first = Array.from({ length: 106 }, (_, sample) => parts.train.inputs[sample * 13]!);
  expect(first.reduce((sum, value) => sum + value, 0) / 106).toBeCloseTo(0);
  expect(first.reduce((sum, value) => sum + value ** 2, 0) / 106).toBeCloseTo(1);
});

it('a trial of the service learns, and comes to the same again', async () => {
  const trial = trialOf(TASK, { kind: 'service', optimizer: {} }, { seed: 0, evaluations: 2 });
  const [first, second] = [await service.run(trial, {}, parts), await service.run(trial, {}, parts)];
  expect(first.points.map(({ step }) => step)).toEqual([13, 26]);
  expect(first.points[1]!.trainingLoss).toBeLessThan(first.points[0]!.trainingLoss);
  expect(first.validation!.accuracy).toBeGreaterThan(0.8);
  expect(timeless(second)).toEqual(timeless(first));
});

it('a trial whose steps the service draws comes to the same, to the bit, as one that sends every batch', async () => {
  // A first seed of the tuning, an order of its own; the data set's last samples wait for other epochs, and stretches end within epochs.
  const settings = { seed: 100, evaluations: 3 };
  for (const optimizer of [{}, { metric: { kind: 'ekfac' }, coupling: 'value' }] as const) {
    const trainer = { kind: 'service', optimizer } as const;
    const byRuns = await service.run(trialOf(TASK, trainer, settings), optimizer, parts);
    const stepByStep = await service.run(trialOf(TASK, trainer, { ...settings, alone: true }), optimizer, parts);
    expect(byRuns.points.map(({ step }) => step)).toEqual([9, 17, 26]);
    expect(timeless(byRuns)).toEqual(timeless(stepByStep));
  }
});

it.each([false, true])('a trial that diverges is an outcome, alone: %s', async (alone) => {
  const optimizer = {
    learningRate: { kind: 'constant', value: 1e6 },
    metric: { kind: 'identity' },
    // Times η it doubles the weights' exponents with every step.
    weightDecay: { kind: 'running-cost', rate: 1e6 },
  } as const;
  const outcome = await service.run(
    trialOf(TASK, { kind: 'service', optimizer }, { seed: 0, evaluations: 1, alone }),
    optimizer,
    parts,
  );
  expect(outcome.validation).toBeNull();
});

it.skipIf(!peersInstalled())('PyTorch begins with the same weights and takes the same batches', async () => {
  const peer = await PeerTrials.start(1);
  try {
    await withFiles(parts, async (files) => {
      // η so small that nothing changes: the losses are those of the initial weights on the same batches.
      const tiny = { learningRate: { kind: 'constant', value: 1e-9 }, metric: { kind: 'identity' } } as const;
      const sgd = { kind: 'sgd', learningRate: 1e-9 } as const;
      const initial = await service.initialParameters(TASK.network, 7);
      const ours = await service.run(
        trialOf(TASK, { kind: 'service', optimizer: tiny }, { seed: 7, evaluations: 3 }),
        tiny,
        parts,
      );
      const theirs = await peer.run(
        trialOf(TASK, { kind: 'peer', optimizer: sgd }, { seed: 7, evaluations: 3 }),
        sgd,
        initial,
        parts,
        files,
      );
      for (const [index, point] of ours.points.entries()) {
        expect(theirs.points[index]!.trainingLoss).toBeCloseTo(point.trainingLoss, 5);
        expect(theirs.points[index]!.accuracy).toBe(point.accuracy);
      }
      expect(theirs.validation!.loss).toBeCloseTo(ours.validation!.loss, 5);
    });
  } finally {
    await peer.stop();
  }
});
