/** What the runner of bench:results keeps, chooses and reads from outcomes; the trials themselves are run in test/e2e. */
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { renderHeatMaps } from '../../bench/heat-map.ts';
import { CATALOGUE } from '../../bench/results/catalogue.ts';
import { isComplete } from '../../bench/results/item.ts';
import { goodRange } from '../../bench/results/items/sensitivity.ts';
import { bestAccuracy, firstReaching } from '../../bench/results/items/untuned.ts';
import { ALL, BASELINES, settingsOf, TUNED, UNTUNED, type Optimizer } from '../../bench/results/optimizers.ts';
import { choose, chosenTrials, settingTrials, tunedPlan } from '../../bench/results/plan.ts';
import { missingOf } from '../../bench/results/runner.ts';
import { confidence, pairedDifference, sign, standardDeviation } from '../../bench/results/statistics.ts';
import { TrialStore } from '../../bench/results/store.ts';
import { DIGITS, trialOf, WINE, CONVOLUTIONAL_TASKS } from '../../bench/results/tasks.ts';
import { finalAccuracy, keyOf, type Outcome, type Trial } from '../../bench/results/trial.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'results-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const VERSIONS = { revision: 'abc', trainer: 'wasm' };
const TRIAL = trialOf(WINE, { kind: 'service', optimizer: {} }, { seed: 0, evaluations: 2 });

function outcome(validation: number | null, test = 0.5, loss = 1): Outcome {
  const points = [{ step: 10, seconds: 1, trainingLoss: 1, loss: 1, accuracy: test }];
  return { points, validation: validation === null ? null : { loss, accuracy: validation }, milliseconds: 100 };
}

it('a trial is stored under its whole definition, whatever the order of its fields', () => {
  const reversed = Object.fromEntries(Object.entries(TRIAL).toReversed()) as unknown as Trial;
  expect(keyOf(reversed)).toBe(keyOf(TRIAL));
  const others: Trial[] = [
    { ...TRIAL, seed: 1 },
    { ...TRIAL, alone: true },
    { ...TRIAL, trainer: { kind: 'service', optimizer: { coupling: 'value' } } },
    trialOf(DIGITS, TRIAL.trainer, { seed: 0, evaluations: 2 }),
  ];
  expect(new Set([TRIAL, ...others].map(keyOf)).size).toBe(5);
});

it('outcomes survive, and a line that was cut off takes only itself along', () => {
  const file = join(folder, 'deep', 'trials.jsonl');
  const store = new TrialStore(file);
  store.add(TRIAL, outcome(0.75), VERSIONS);
  store.add({ ...TRIAL, seed: 1 }, outcome(null), VERSIONS);
  appendFileSync(file, '{"key":"half of a li');
  const again = new TrialStore(file);
  expect(again.size).toBe(2);
  expect(again.outcome(TRIAL)).toEqual(outcome(0.75));
  expect(again.versions(TRIAL)).toEqual(VERSIONS);
  again.add({ ...TRIAL, seed: 2 }, outcome(0.5), VERSIONS);
  expect(new TrialStore(file).size).toBe(3);
  for (const line of readFileSync(file, 'utf8').trimEnd().split('\n'))
    expect(() => JSON.parse(line) as unknown).not.toThrow();
  again.forget([TRIAL, { ...TRIAL, seed: 7 }]);
  const rest = new TrialStore(file);
  expect([rest.size, rest.outcome(TRIAL)]).toEqual([2, undefined]);
  again.clear();
  expect(new TrialStore(file).size).toBe(0);
});

/** Gives every trial of the tuning an outcome by its setting. */
function tuned(store: TrialStore, optimizer: Optimizer, of: (index: number) => Outcome): void {
  for (const [index, setting] of settingsOf(optimizer, WINE).entries()) {
    for (const trial of settingTrials(WINE, optimizer, setting)) store.add(trial, of(index), VERSIONS);
  }
}

it('the choice is made by the validation part, by its loss among equals, and never by the test part', () => {
  const store = new TrialStore(join(folder, 'trials.jsonl'));
  expect(choose(store, WINE, TUNED)).toBeNull();
  expect(chosenTrials(store, WINE, TUNED)).toBeNull();
  // The best test accuracy where the validation accuracy is worst; two equals, of which the latter has the smaller loss.
  tuned(store, TUNED, (index) => {
    if (index === 3) return outcome(0.1, 1);
    if (index === 5) return outcome(0.9, 0.2, 0.4);
    if (index === 8) return outcome(0.9, 0.2, 0.3);
    return index === 10 ? outcome(null) : outcome(0.5, 0.6);
  });
  const chosen = settingsOf(TUNED, WINE)[8]!;
  expect(choose(store, WINE, TUNED)).toEqual(chosen);
  const trials = chosenTrials(store, WINE, TUNED)!;
  expect(trials.map(({ seed }) => seed)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(
    trials.every(
      ({ trainer }) => keyOf({ ...TRIAL, trainer }) === keyOf({ ...TRIAL, trainer: TUNED.trainer(chosen, WINE) }),
    ),
  ).toBe(true);
});

it('a plan counts what waits for the choice, and then what the choice asks for', () => {
  const store = new TrialStore(join(folder, 'trials.jsonl'));
  const before = tunedPlan(store, WINE, [TUNED, UNTUNED]);
  // 21 settings with two seeds, and the untuned one's ten.
  expect(before.trials).toHaveLength(42 + 10);
  expect(before.waiting).toBe(10);
  tuned(store, TUNED, () => outcome(0.5));
  const after = tunedPlan(store, WINE, [TUNED, UNTUNED]);
  expect(after.waiting).toBe(0);
  expect(missingOf(store, after.trials)).toHaveLength(20);
});

it('the seconds of the service are taken both with a request a step and in runs, those of the others once', () => {
  const store = new TrialStore(join(folder, 'trials.jsonl'));
  const sections = CATALOGUE.find(({ id }) => id === 'untuned')!.sections;
  const timed = sections
    .find(({ id }) => id === 'wine')!
    .plan(store)
    .trials.map(({ trial }) => trial)
    .filter(({ alone }) => alone);
  // Of those that are not tuned three seeds.
  expect(timed.filter(({ trainer }) => trainer.kind === 'service').map(({ inRuns }) => inRuns)).toEqual(
    [undefined, true, undefined, true, undefined, true], // prettier-ignore
  );
  expect(timed).toHaveLength(6);
  expect(timed.every(({ onAllProcessors }) => onAllProcessors === undefined)).toBe(true);
  expect(keyOf({ ...TRIAL, inRuns: undefined })).toBe(keyOf(TRIAL));
});

it('every tuned optimizer has as many settings, in half decades', () => {
  const sizes = ALL.filter((optimizer) => optimizer !== UNTUNED && !optimizer.isSlow).map(
    (optimizer) => settingsOf(optimizer, WINE).length,
  );
  expect(new Set(sizes)).toEqual(new Set([21]));
  expect(settingsOf(UNTUNED, WINE)).toHaveLength(1);
  // Without regularisation where a task has no time for it.
  expect(settingsOf(TUNED, CONVOLUTIONAL_TASKS[0]!)).toHaveLength(7);
  expect(BASELINES[0]?.learningRates).toEqual([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]);
  expect(BASELINES[0]?.widerLearningRates.slice(1, 4)).toEqual([0.0003, 0.001, 0.003]);
});

it('images that convolutions pass over are not whitened: their coordinates would be none', () => {
  const whitened = ALL.filter((optimizer) => !CONVOLUTIONAL_TASKS.some((task) => optimizer.runsOn(task)));
  expect(whitened.map(({ id }) => id)).toEqual(expect.arrayContaining(['adam-whitened']));
  expect(BASELINES.every((optimizer) => optimizer.runsOn(DIGITS))).toBe(true);
});

it('no section of any item is complete before its trials are', () => {
  const store = new TrialStore(join(folder, 'trials.jsonl'));
  for (const { sections } of CATALOGUE) {
    expect(sections.length).toBeGreaterThan(0);
    for (const section of sections) expect(isComplete(store, section)).toBe(false);
  }
});

it('the range of good learning rates is contiguous, around the best, and says where it was cut', () => {
  const learningRates = [0.01, 0.1, 1, 10, 100];
  const range = (accuracies: number[][], within: number) => goodRange({ learningRates, accuracies }, within);
  // The best twice: the wider run counts.
  const twice = [[0.9, 0.5, 0.895, 0.9, 0.2], [0, 0, 0, 0, 0]]; // prettier-ignore
  expect(range(twice, 0.01)).toEqual({ best: 0.9, decades: 1, isCut: false });
  expect(range(twice, 0.5)).toEqual({ best: 0.9, decades: 3, isCut: true });
  expect(range([[0.2, 0.2, 0.2, 0.895, 0.9]], 0.01)).toEqual({ best: 0.9, decades: 1, isCut: true });
  expect(range([[0.2, 0.9, 0.2, 0.2, 0.2]], 0.01)).toEqual({ best: 0.9, decades: 0, isCut: false });
});

it('an accuracy is reached at the first point that has it', () => {
  const curve = [0.5, 0.7, 0.6, 0.9].map((accuracy, index) => ({
    step: 10 * (index + 1),
    trainingLoss: 1,
    accuracy,
  }));
  expect(bestAccuracy({ curve })).toBe(0.9);
  expect(firstReaching({ curve }, 0.6)).toBe(20);
  expect(firstReaching({ curve }, 0.91)).toBeNull();
});

it('a trial that diverged counts as 0, however good it was before', () => {
  expect(finalAccuracy(outcome(0.9, 0.8))).toBe(0.8);
  expect(finalAccuracy(outcome(null, 0.8))).toBe(0);
});

it('intervals are Student’s', () => {
  // Of 1, 2, 3: t = 4.303 for two degrees of freedom, s = 1.
  expect(standardDeviation([1, 2, 3])).toBe(1);
  expect(confidence([1, 2, 3])).toEqual({ mean: 2, half: expect.closeTo(4.303 / Math.sqrt(3)) as number });
  expect(pairedDifference([3, 5, 7], [2, 3, 4])).toEqual(confidence([1, 2, 3]));
  expect(sign(confidence([1, 1.1, 0.9]))).toBe(1);
  expect(sign(confidence([-1, -1.1, -0.9]))).toBe(-1);
  expect(sign(confidence([1, 2, 3]))).toBe(0);
  expect(sign(confidence([1]))).toBe(0);
  expect(() => pairedDifference([1], [])).toThrow('1 and 0 values are no pairs');
});

it('heat maps say every number, and escape their titles', () => {
  const svg = renderHeatMaps({
    title: 'A & B',
    xLabel: 'η',
    lowest: 50,
    maps: [{ title: '<one>', xValues: [0.1, 1], yValues: [0], yLabel: 'λ', rows: [[40, 90.04]] }],
  });
  expect(svg).toContain('A &amp; B');
  expect(svg).toContain('&lt;one&gt;');
  expect(svg).toContain('>40.0<');
  expect(svg).toContain('>90.0<');
  // The ends of the scale.
  expect(svg).toContain('#440154');
  expect(svg).toContain('#fde725');
  expect(svg).not.toMatch(/NaN|Infinity/);
});
