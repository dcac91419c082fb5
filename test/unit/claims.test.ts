/** What the page of claims says to accuracies that are made up: when a claim holds, and what becomes of seeds that diverged. */
import { expect, it } from 'vitest';
import type { OptimizerAccuracy, TaskAccuracy } from '../../bench/results/items/accuracy.ts';
import { renderClaims } from '../../bench/results/report/claims.ts';

const COMPETITIVE =
  'It is competitive with first- and second-order methods in accuracy on dense nets: the paper’s recursion.';

function optimizer(id: string, accuracies: readonly number[]): OptimizerAccuracy {
  return {
    id,
    name: id,
    setting: { learningRate: 1, regularization: 0 },
    isAtEnd: false,
    regularizer: 'none',
    validation: 0.9,
    accuracies,
    curve: [],
  };
}

/** The page of one dense task, on which the paper's form and Adam have these accuracies. */
function pageOf(paper: readonly number[], adam: readonly number[]): string {
  const task: TaskAccuracy = {
    id: 'made-up',
    description: '',
    isConvolutional: false,
    batch: 8,
    epochs: 1,
    trainingSamples: null,
    testSamples: 100,
    isTestWhole: true,
    seeds: paper.map((_, seed) => seed),
    tuningSeeds: [100],
    optimizers: [optimizer('paper-kronecker', paper), optimizer('adam', adam)],
  };
  const header = { command: '', machine: '', revisions: [], trainers: [], missing: [] };
  return renderClaims({ accuracy: { ...header, learningRates: 1, regularizations: 1, tasks: [task] } });
}

function verdictOf(page: string): string | undefined {
  const row = page.split('\n').find((line) => line.startsWith('| ') && line.includes(COMPETITIVE));
  return row?.split('|')[2]?.trim();
}

it.each([
  ['reproduced', [0.9, 0.91, 0.9], [0.9, 0.905, 0.9]],
  ['not reproduced', [0.8, 0.81, 0.8], [0.9, 0.905, 0.9]],
  // On average two points behind, with an interval that reaches from far behind to ahead.
  ['undecided', [0.84, 0.9, 0.9], [0.9, 0.9, 0.9]],
])('an accuracy is competitive with all of its interval: %s', (verdict, paper, adam) => {
  expect(verdictOf(pageOf(paper, adam))).toBe(`**${verdict}**`);
});

it('seeds on which one of two diverged say nothing of their accuracy: they are left out, and named', () => {
  const page = pageOf([0.9, 0.9, 0.9, 0.9], [0.92, 0, 0.92, 0.921]);
  expect(verdictOf(page)).toBe('**not reproduced**');
  expect(page).toContain('made-up, paper-kronecker − adam **-2.0 ± 0.1** (left out: adam diverged on 1 of 4 seeds)');
  // One seed is left: no interval.
  const few = pageOf([0.9, 0.9], [0.9, 0]);
  expect(verdictOf(few)).toBe('**undecided**');
  expect(few).toContain('made-up, paper-kronecker − adam on too few seeds to compare');
  // Whoever diverges alone is not competitive, however good on the other seeds.
  expect(verdictOf(pageOf([0.95, 0.95, 0], [0.9, 0.905, 0.9]))).toBe('**not reproduced**');
});
