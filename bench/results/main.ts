/**
 * npm run bench:results: the paper's claims, reproduced or refuted. Runs trials, each of which is stored in .bench/results when it is
 * done, so that a run that is stopped, however it is, goes on where it was; and writes the pages of docs/results of what is complete.
 *
 * usage: npm run bench:results [-- --quick] [--only item[:section]] [--seconds n] [--fresh] [--list] [--pages]
 *   --quick      the small sets' accuracies alone
 *   --only id    one item, or one section of it; can be repeated
 *   --seconds n  begins no trial after n seconds
 *   --fresh      forgets the trials that were run
 *   --list       says what there is to run, and how much of it is done
 *   --pages      writes the pages of what is complete, and runs nothing
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { MISSING, peersInstalled } from '../peers/environment.ts';
import { provenance } from '../provenance.ts';
import { missingFolder } from './data.ts';
import { isComplete, type Item, type Section } from './item.ts';
import { ablation } from './items/ablation.ts';
import { accuracy } from './items/accuracy.ts';
import { feedback } from './items/feedback.ts';
import { sensitivity } from './items/sensitivity.ts';
import { untuned } from './items/untuned.ts';
import { Progress } from './progress.ts';
import { missingOf, runTrials } from './runner.ts';
import { TrialStore } from './store.ts';

const ITEMS: readonly Item[] = [accuracy, sensitivity, feedback, ablation, untuned];
const STORE = fileURLToPath(new URL('../../.bench/results/trials.jsonl', import.meta.url));

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    seconds: { type: 'string', default: 'Infinity' },
    fresh: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    pages: { type: 'boolean', default: false },
  },
});

function fail(reason: string): never {
  process.stderr.write(`${reason}\n`);
  process.exit(1);
}

interface Selected {
  readonly item: Item;
  readonly section: Section;
}

const ends = performance.now() + 1000 * Number(options.seconds);
if (Number.isNaN(ends)) fail(`--seconds takes a number, not ${options.seconds}.`);
const known = ITEMS.flatMap(({ id, sections }) => [id, ...sections.map((section) => `${id}:${section.id}`)]);
const stranger = options.only.find((id) => !known.includes(id));
if (stranger !== undefined) fail(`--only ${stranger}: there is ${known.join(', ')}.`);
const isWanted = (item: Item, section: Section): boolean =>
  options.only.length === 0
    ? !options.quick || section.isQuick
    : options.only.includes(item.id) || options.only.includes(`${item.id}:${section.id}`);
const selected: readonly Selected[] = ITEMS.flatMap((item) =>
  item.sections.filter((section) => isWanted(item, section)).map((section) => ({ item, section })),
);

const store = new TrialStore(STORE);
if (options.fresh) store.clear();
if (options.list) {
  for (const { item, section } of selected) {
    const { trials, waiting } = section.plan(store);
    const missing = missingOf(store, trials).length + waiting;
    process.stdout.write(
      `${item.id}:${section.id}  ${String(trials.length + waiting)} trials, ${String(missing)} to run\n`,
    );
  }
} else {
  if (!options.pages) await runSelected();
}

async function runSelected(): Promise<void> {
  if (!peersInstalled()) fail(MISSING);
  const { revision } = provenance('');
  for (const { item, section } of selected) {
    const folder = section
      .plan(store)
      .trials.map(({ trial }) => missingFolder(trial.dataSet))
      .find((each) => each !== null);
    if (folder !== undefined) {
      process.stdout.write(`${item.id}:${section.id} is left out: ${folder} names no folder of its data\n`);
      continue;
    }
    const progress = new Progress();
    while (!isComplete(store, section)) {
      const plan = section.plan(store);
      const isThrough = await runTrials(store, plan.trials, {
        revision,
        engine: process.env['DDPNOPT_ENGINE'],
        ends,
        onDone({ group }, { milliseconds, validation }) {
          progress.add(milliseconds);
          const result = validation === null ? 'diverged' : `validation ${validation.accuracy.toFixed(3)}`;
          process.stdout.write(`${item.id}: ${group}, ${result}; ${progress.line(store, section.plan(store))}\n`);
        },
      });
      if (!isThrough) {
        process.stdout.write('The time is up; the same command goes on from here.\n');
        return;
      }
    }
  }
}
