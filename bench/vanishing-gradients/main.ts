/**
 * npm run bench:vanishing-gradients: how deep a sigmoid net each optimizer trains, with cross-entropy and with the
 * max-Mahalanobis-centre loss, on DIGITS and MNIST, and what reaches its first layers. The service is asked over HTTP, by the JavaScript
 * client in hosted mode; the others run in PyTorch. Writes docs/results/vanishing-gradients.json, .md and the figures of what is
 * complete; a run that is stopped goes on where it was.
 *
 * usage: npm run bench:vanishing-gradients [-- --quick] [--seconds n] [--fresh]
 *   --quick      DIGITS, five hidden layers, cross-entropy, three learning rates and one seed, on the standard output only
 *   --seconds n  begins no further run after n seconds
 *   --fresh      forgets what was measured: after a change of the contenders, or of what they compute
 */
import { parseArgs } from 'node:util';
import type { LabelledData } from '../../clients/datasets/digits/digits.ts';
import { startStack } from '../../deploy/local/stack.ts';
import { isDivergence } from '../divergence.ts';
import { withFiles, type PartFiles } from '../part-files.ts';
import { sampleOrder, select } from '../parts.ts';
import { MISSING, peersInstalled } from '../peers/environment.ts';
import { torchVersion } from '../peers/peers.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { loadParts } from '../training-time/task.ts';
import { Store } from './store.ts';
import { CONTENDERS, DATA_SETS, BUDGETS, LOSSES, SEEDS, TUNING_SEED, type Contender, type DataSetName, type Task } from './tasks.ts'; // prettier-ignore
import { Judge, Trainings, type Parameters, type Score, type Training, type TrainingData } from './trainings.ts';
import { renderFigures, renderVanishingGradients, type CellResult, type Norms, type Tried, type VanishingGradientResults } from './report.ts'; // prettier-ignore

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    fresh: { type: 'boolean', default: false },
    seconds: { type: 'string', default: 'Infinity' },
  },
});
const began = performance.now();
const ends = began + 1000 * Number(options.seconds);
/** Contenders that train at a time, each with its seeds one after the other. */
const LANES = 2;
/** Steps before the one whose gradients and changes are looked at. */
const NORM_STEP = 20;

function fail(reason: string): never {
  process.stderr.write(`${reason}\n`);
  process.exit(1);
}

if (Number.isNaN(ends)) fail(`--seconds takes a number, not ${options.seconds}.`);
if (!peersInstalled()) fail(MISSING);

const seeds = options.quick ? [0] : SEEDS;
const contenders = options.quick
  ? CONTENDERS.map((each) => ({ ...each, learningRates: each.learningRates.slice(1, 4) }))
  : CONTENDERS;
const tasks: readonly Task[] = options.quick
  ? [{ dataSet: 'digits', depth: 5, loss: 'softmax-cross-entropy' }]
  : DATA_SETS.flatMap((dataSet) =>
      LOSSES.flatMap((loss) => BUDGETS[dataSet].depths.map((depth) => ({ dataSet, depth, loss }))),
    );

/** Of the parts at the end; null where the training diverged. */
type Outcome = Readonly<Record<'validation' | 'test', Score>> | null;

interface Run {
  readonly task: Task;
  readonly contender: Contender;
  readonly learningRate: number;
  readonly seed: number;
}

const outcomes = new Store<Outcome>(options.quick ? 'vanishing-gradients-quick' : 'vanishing-gradients');
const measuredNorms = new Store<Norms>(options.quick ? 'vanishing-gradients-norms-quick' : 'vanishing-gradients-norms');
if (options.fresh || options.quick) {
  outcomes.clear();
  measuredNorms.clear();
}

const taskKey = ({ dataSet, depth, loss }: Task): string => `${dataSet} ${String(depth)} ${loss}`;
const cellKey = (task: Task, { id }: Contender): string => `${taskKey(task)} ${id}`;
const runKey = ({ task, contender, learningRate, seed }: Run): string =>
  `${cellKey(task, contender)} ${String(learningRate)} ${String(seed)}`;

const planned = tasks.length * contenders.reduce((sum, { learningRates }) => sum + learningRates.length + seeds.length, 0); // prettier-ignore
const isDone = (run: Run): boolean => outcomes.get(runKey(run)) !== undefined;
let before = 0;
let done = 0;

/** What is lent to the runs on a data set. */
interface Lent {
  readonly train: TrainingData;
  readonly epochs: number;
  readonly files: PartFiles;
}

const initialParameters = new Map<string, Promise<Parameters>>();

/** The same for every contender. */
function initialOf(trainings: Trainings, task: Task, seed: number): Promise<Parameters> {
  const key = `${taskKey(task)} ${String(seed)}`;
  const known = initialParameters.get(key) ?? trainings.initialParameters(task, seed);
  initialParameters.set(key, known);
  return known;
}

async function measure(trainings: Trainings, judge: Judge, run: Run, lent: Lent): Promise<Outcome> {
  const { task, contender, learningRate, seed } = run;
  const { train, epochs, files } = lent;
  const initial = await initialOf(trainings, task, seed);
  const training = await trainings.start(task, contender.at(learningRate), seed, initial, train);
  try {
    const samples = sampleOrder(train.data, train.batch, epochs, seed);
    const first = NORM_STEP * train.batch;
    await training.train(samples.subarray(0, first));
    const looked = samples.subarray(first, first + train.batch);
    if (seed === seeds[0]) measuredNorms.set(runKey(run), await normsOf(training, judge, task, train, looked));
    else await training.train(looked);
    await training.train(samples.subarray(first + train.batch));
    return await judge.scores(task, await training.parameters(), files);
  } catch (error) {
    if (!isDivergence(error)) throw error;
    return null;
  } finally {
    await training.stop();
  }
}

/** Takes one step, and tells what the gradient was at every layer, and what the step changed there. */
async function normsOf(
  training: Training,
  judge: Judge,
  task: Task,
  train: TrainingData,
  samples: Uint32Array,
): Promise<Norms> {
  const earlier = await training.parameters();
  const gradients = await judge.gradientNorms(task, earlier, train, samples);
  await training.train(samples);
  const later = await training.parameters();
  const changes = gradients.map((_, layer) => {
    // Weight and bias of a layer stand side by side.
    const [from, to] = [earlier, later].map((all) => all.slice(2 * layer, 2 * layer + 2).flatMap((part) => [...part]));
    const size = Math.hypot(...(from ?? []));
    return Math.hypot(...(to ?? []).map((value, index) => value - (from?.[index] ?? Number.NaN))) / size;
  });
  return { gradients, changes };
}

async function ensure(trainings: Trainings, judge: Judge, run: Run, lent: Lent): Promise<Outcome> {
  const key = runKey(run);
  const known = outcomes.get(key);
  if (known !== undefined) return known;
  const outcome = await measure(trainings, judge, run, lent);
  outcomes.set(key, outcome);
  done++;
  const seconds = (performance.now() - began) / 1000;
  const left = ((planned - before - done) * seconds) / done;
  const reached = outcome === null ? 'diverged' : `${(100 * outcome.test.accuracy).toFixed(1)} %`;
  process.stdout.write(
    `${String(before + done)} of ${String(planned)}, about ${String(Math.ceil(left / 60))} min left: ${key}: ${reached}\n`,
  );
  return outcome;
}

function tuningRuns(task: Task, contender: Contender): Run[] {
  return contender.learningRates.map((learningRate) => ({ task, contender, learningRate, seed: TUNING_SEED }));
}

/** The learning rate with the best accuracy on the validation part, and all that were tried. */
function tuningOf(task: Task, contender: Contender): { readonly learningRate: number; readonly tried: Tried[] } | null {
  const runs = tuningRuns(task, contender);
  if (!runs.every(isDone)) return null;
  const tried = runs.map((run): Tried => {
    return { learningRate: run.learningRate, accuracy: outcomes.get(runKey(run))?.validation.accuracy ?? null };
  });
  const best = tried.reduce((left, right) => ((right.accuracy ?? 0) > (left.accuracy ?? 0) ? right : left));
  return { learningRate: best.learningRate, tried };
}

/** @returns false if the time was up before it was complete */
async function measureCell(
  trainings: Trainings,
  judge: Judge,
  task: Task,
  contender: Contender,
  lent: Lent,
): Promise<boolean> {
  for (const run of tuningRuns(task, contender)) {
    if (performance.now() > ends) return false;
    await ensure(trainings, judge, run, lent);
  }
  const learningRate = tuningOf(task, contender)?.learningRate;
  if (learningRate === undefined) throw new Error(`${cellKey(task, contender)} has not been tuned`);
  for (const seed of seeds) {
    if (performance.now() > ends) return false;
    await ensure(trainings, judge, { task, contender, learningRate, seed }, lent);
  }
  return true;
}

/** What is complete of a task and a contender; null if it is not. */
function resultOf(task: Task, contender: Contender): CellResult | null {
  const tuning = tuningOf(task, contender);
  if (tuning === null) return null;
  const runs = seeds.map((seed): Run => ({ task, contender, learningRate: tuning.learningRate, seed }));
  if (!runs.every(isDone)) return null;
  return {
    ...task,
    contender: contender.id,
    ...tuning,
    test: runs.map((run) => outcomes.get(runKey(run))?.test ?? null),
    norms: runs[0] === undefined ? null : (measuredNorms.get(runKey(runs[0])) ?? null),
  };
}

async function measureDataSet(dataSet: DataSetName, url: string): Promise<void> {
  const { trainingSamples, batch, epochs } = BUDGETS[dataSet];
  const loaded = await loadParts(dataSet);
  const train = trainingSamples === null ? loaded.train : firstOf(loaded.train, trainingSamples);
  const cells = tasks
    .filter((task) => task.dataSet === dataSet)
    .flatMap((task) => contenders.map((contender) => ({ task, contender })))
    .values();
  await withFiles({ ...loaded, train }, async (files) => {
    const lent: Lent = { train: { data: train, file: files.train, batch }, epochs, files };
    const lane = async (): Promise<void> => {
      const trainings = await Trainings.start(url);
      const judge = await Judge.start();
      try {
        for (const { task, contender } of cells) {
          if (!(await measureCell(trainings, judge, task, contender, lent))) return;
        }
      } finally {
        await trainings.stop();
        await judge.stop();
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  });
}

function firstOf(data: LabelledData, count: number): LabelledData {
  return select(
    data,
    Uint32Array.from({ length: count }, (_, index) => index),
  );
}

for (const task of tasks) {
  for (const contender of contenders) {
    const cell = resultOf(task, contender);
    const tuned = tuningRuns(task, contender).filter(isDone).length;
    before += cell === null ? tuned : contender.learningRates.length + seeds.length;
  }
}
const stack = await startStack({ engine: process.env['DDPNOPT_ENGINE'] });
try {
  for (const dataSet of new Set(tasks.map((task) => task.dataSet))) {
    if (performance.now() < ends) await measureDataSet(dataSet, stack.url);
  }
} finally {
  await stack.stop();
}
// A table compares: a task stands in it when all its contenders do.
const cells = tasks.map((task) => contenders.map((contender) => resultOf(task, contender)));
const results: VanishingGradientResults = {
  command: 'npm run bench:vanishing-gradients',
  ...provenance(stack.engine),
  torch: await torchVersion(),
  seeds,
  normStep: NORM_STEP,
  budgets: BUDGETS,
  contenders: contenders.map(({ id, name, learningRates }) => ({ id, name, learningRates })),
  missing: tasks.filter((_, index) => cells[index]?.includes(null) === true),
  cells: cells.filter((row) => !row.includes(null)).flatMap((row) => row.filter((cell) => cell !== null)),
};
if (!options.quick) {
  const page = ['vanishing-gradients.md', renderVanishingGradients(results)] as const;
  await writeResults('vanishing-gradients', results, new Map([page, ...renderFigures(results)]));
}
process.stdout.write(`\n${renderVanishingGradients(results)}`);
if (results.missing.length > 0) process.stdout.write('\nThe time was up; the same command goes on from here.\n');
