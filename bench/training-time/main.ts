/**
 * npm run bench:training-time: test accuracy and loss against seconds of training, for DDPNOpt on the native engine and for Adam and
 * K-FAC in PyTorch, which take turns in one run. Writes docs/results/training-time.json, training-time.md and the figures when
 * everything is measured; a run that is stopped goes on where it was.
 *
 * usage: npm run bench:training-time [-- --quick] [--tune] [--seconds n] [--fresh]
 *   --quick      DIGITS, one batch size, one seed, short budgets, on the standard output only
 *   --tune       chooses learning rates, in which time plays no part, and stops
 *   --seconds n  stops after the measurement that is under way after n seconds
 *   --fresh      forgets what was measured: after a change of the contenders' options, or of what they compute
 */
import { parseArgs } from 'node:util';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { MISSING, peersInstalled } from '../peers/environment.ts';
import { withFiles, type PartFiles } from '../part-files.ts';
import type { Parts } from '../parts.ts';
import { torchVersion } from '../peers/peers.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import type { Contender, Entrant } from './contenders.ts';
import { lineUp } from './line-up.ts';
import { race, tune, type Tuning } from './measure.ts';
import { Progress } from './progress.ts';
import { renderFigures, renderTrainingTime, type TaskResult, type TrainingTimeResults } from './report.ts';
import { loadParts, task, type DataSetName, type Task } from './task.ts';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    tune: { type: 'boolean', default: false },
    fresh: { type: 'boolean', default: false },
    seconds: { type: 'string', default: 'Infinity' },
  },
});
const ends = performance.now() + 1000 * Number(options.seconds);

function fail(reason: string): never {
  process.stderr.write(`${reason}\n`);
  process.exit(1);
}

if (Number.isNaN(ends)) fail(`--seconds takes a number, not ${options.seconds}.`);
if (!peersInstalled()) fail(MISSING);
if (!presentEngines().includes('tensorflow')) fail('The native engine is not there; run `npm run native`.');

const seeds = options.quick ? [0] : [0, 1];
const tasks: readonly Task[] = options.quick
  ? [{ ...task('digits', 128), budgets: [5], longestBudget: 10, tuningBudget: 5 }]
  : // Batches of 512 leave DIGITS two steps an epoch.
    [
      task('digits', 128),
      ...(['mnist', 'fashion-mnist'] as const).flatMap((name) => [task(name, 128), task(name, 512)]),
    ];
const engine = await loadEngine('tensorflow');
const contenders = lineUp(engine);
const progress = new Progress(options.quick ? 'training-time-quick' : 'training-time');
if (options.fresh || options.quick) progress.clear();

/** What has to be measured, a piece at a time. */
interface Race {
  readonly epochs: number;
  readonly seed: number;
}

/** Seed by seed. */
function racesOf(which: Task): Race[] {
  const budgets = [...which.budgets, which.longestBudget];
  return seeds.flatMap((seed) => budgets.map((epochs) => ({ epochs, seed })));
}

const takesPart = ({ longestBudget }: Task, { isBaseline }: Contender, { epochs }: Pick<Race, 'epochs'>): boolean =>
  isBaseline || epochs < longestBudget;

const keyOf = ({ dataSet, batch }: Task, { id }: Contender): string => `${dataSet} ${String(batch)} ${id}`;
const curveKey = (which: Task, contender: Contender, { epochs, seed }: Race): string =>
  `${keyOf(which, contender)} ${String(epochs)} ${String(seed)}`;
const isRaced = (which: Task, each: Race): boolean =>
  contenders
    .filter((contender) => takesPart(which, contender, each))
    .every((contender) => progress.curve(curveKey(which, contender, each)) !== undefined);
const isTuned = (which: Task): boolean =>
  contenders.every((contender) => progress.tuning(keyOf(which, contender)) !== undefined);

function tuningOf(which: Task, contender: Contender): Tuning {
  const tuning = progress.tuning(keyOf(which, contender));
  if (tuning === undefined) throw new Error(`${keyOf(which, contender)} has not been tuned`);
  return tuning;
}

/** @returns false if the time was up before everything was measured */
async function measureTask(which: Task, parts: Parts, files: PartFiles): Promise<boolean> {
  const entrants: { contender: Contender; entrant: Entrant }[] = [];
  try {
    for (const contender of contenders)
      entrants.push({ contender, entrant: await contender.enter(which, parts, files) });
    for (const { contender, entrant } of entrants) {
      const key = keyOf(which, contender);
      if (progress.tuning(key) !== undefined) continue;
      if (performance.now() > ends) return false;
      const tuning = await tune(which, parts, contender, entrant);
      progress.addTuning(key, tuning);
      const tried = tuning.accuracies.map(({ learningRate, accuracy }) => `${String(learningRate)}: ${accuracy?.toFixed(4) ?? 'diverged'}`); // prettier-ignore
      process.stdout.write(`${key}: η ${String(tuning.learningRate)}  ${tried.join('  ')}\n`);
    }
    if (options.tune) return true;
    for (const each of racesOf(which)) {
      if (isRaced(which, each)) continue;
      if (performance.now() > ends) return false;
      const racing = entrants.filter(({ contender }) => takesPart(which, contender, each));
      const tuned = racing.map(({ contender, entrant }) => {
        return { entrant, learningRate: tuningOf(which, contender).learningRate };
      });
      const curves = await race(which, parts, tuned, each);
      progress.addCurves(racing.map(({ contender }, index) => [curveKey(which, contender, each), curves[index] ?? []]));
      const where = `${which.dataSet}, batch ${String(which.batch)}, ${String(each.epochs)} epochs, seed ${String(each.seed)}`;
      const reached = racing.map(({ contender: { id } }, index) => {
        const end = curves[index]?.at(-1);
        return end === undefined ? `${id} diverged` : `${id} ${end.accuracy.toFixed(4)} in ${end.seconds.toFixed(1)} s`;
      });
      process.stdout.write(`${where}: ${reached.join(', ')}\n`);
    }
    return true;
  } finally {
    for (const { entrant } of entrants) await entrant.stop();
  }
}

function resultOf(which: Task, trainingSamples: number): TaskResult {
  const { dataSet, widths, batch, tuningBudget } = which;
  const budgets = [...which.budgets, which.longestBudget];
  return {
    dataSet,
    widths,
    batch,
    trainingSamples,
    tuningBudget,
    contenders: contenders.map((contender) => ({
      id: contender.id,
      name: contender.name,
      tuning: tuningOf(which, contender),
      budgets: budgets
        .filter((epochs) => takesPart(which, contender, { epochs }))
        .map((epochs) => ({
          epochs,
          curves: seeds.map((seed) => progress.curve(curveKey(which, contender, { epochs, seed })) ?? []),
        })),
    })),
  };
}

const results: TaskResult[] = [];
let isWhole = true;
const loaded = new Map<DataSetName, Parts>();
for (const which of tasks) {
  const parts = loaded.get(which.dataSet) ?? (await loadParts(which.dataSet));
  loaded.set(which.dataSet, parts);
  const isMeasured = isTuned(which) && (options.tune || racesOf(which).every((each) => isRaced(which, each)));
  isWhole = isMeasured || (await withFiles(parts, (files) => measureTask(which, parts, files)));
  if (!isWhole) break;
  if (!options.tune) results.push(resultOf(which, parts.train.size));
}
if (!isWhole) {
  process.stdout.write('The time is up; the same command goes on from here.\n');
} else if (!options.tune) {
  const { machine, revision } = provenance('');
  const page: TrainingTimeResults = {
    command: 'npm run bench:training-time',
    machine,
    revision,
    torch: await torchVersion(),
    seeds,
    tasks: results,
  };
  if (!options.quick) {
    const figures = results.flatMap((each) => [...renderFigures(each)]);
    await writeResults('training-time', page, new Map([['training-time.md', renderTrainingTime(page)], ...figures]));
  }
  process.stdout.write(`\n${renderTrainingTime(page)}`);
}
