/**
 * npm run bench:results: the paper's claims, reproduced or refuted. Runs trials, each of which is stored in .bench/results when it is
 * done, so that a run that is stopped, however it is, goes on where it was; and writes the pages of docs/results of what is complete.
 *
 * usage: npm run bench:results [-- --quick] [--only item[:section]] [--seconds n] [--fresh] [--retime] [--list] [--pages]
 *   --quick      the small sets' accuracies alone, on the standard output only
 *   --only id    one item, or one section of it; can be repeated
 *   --seconds n  begins no trial after n seconds
 *   --fresh      forgets the trials that were run
 *   --retime     forgets those whose seconds count: after a change of what a step takes, so that all are of one revision
 *   --list       says what there is to run, and how much of it is done
 *   --pages      writes the pages of what is complete, and runs nothing
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CLOSED_PIPE_EXIT, whenNobodyReads } from '../../clients/cli/closed-pipe.ts';
import { MISSING, peersInstalled } from '../peers/environment.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { CATALOGUE, type Entry } from './catalogue.ts';
import { missingFiles } from './data.ts';
import { isComplete, type Section } from './item.ts';
import { Progress } from './progress.ts';
import { makePages, writeClaims } from './publish.ts';
import { missingOf, TrialRunner } from './runner.ts';
import { TrialStore } from './store.ts';

const STORE = fileURLToPath(new URL('../../.bench/results/trials.jsonl', import.meta.url));

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    seconds: { type: 'string', default: 'Infinity' },
    fresh: { type: 'boolean', default: false },
    retime: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    pages: { type: 'boolean', default: false },
  },
});

whenNobodyReads(() => process.exit(CLOSED_PIPE_EXIT));

function fail(reason: string): never {
  process.stderr.write(`${reason}\n`);
  process.exit(1);
}

interface Selected {
  readonly entry: Entry;
  readonly section: Section;
}

const ends = performance.now() + 1000 * Number(options.seconds);
if (Number.isNaN(ends)) fail(`--seconds takes a number, not ${options.seconds}.`);
const known = CATALOGUE.flatMap(({ id, sections }) => [id, ...sections.map((section) => `${id}:${section.id}`)]);
const stranger = options.only.find((id) => !known.includes(id));
if (stranger !== undefined) fail(`--only ${stranger}: there is ${known.join(', ')}.`);
const isWanted = ({ id }: Entry, section: Section): boolean =>
  options.only.length === 0
    ? !options.quick || section.isQuick
    : options.only.includes(id) || options.only.includes(`${id}:${section.id}`);
const selected: readonly Selected[] = CATALOGUE.flatMap((entry) =>
  entry.sections.filter((section) => isWanted(entry, section)).map((section) => ({ entry, section })),
);

const store = new TrialStore(STORE);
if (options.fresh) store.clear();
if (options.retime) {
  const planned = selected.flatMap(({ section }) => section.plan(store).trials);
  store.forget(planned.map(({ trial }) => trial).filter(({ alone }) => alone));
}
if (options.list) list();
else if (options.pages || (await runSelected())) await publish();

function list(): void {
  for (const { entry, section } of selected) {
    const { trials, waiting } = section.plan(store);
    const missing = missingOf(store, trials).length + waiting;
    const all = String(trials.length + waiting);
    process.stdout.write(`${entry.id}:${section.id}  ${all} trials, ${String(missing)} to run\n`);
  }
}

/** @returns false if the time was up before all was run */
async function runSelected(): Promise<boolean> {
  if (!peersInstalled()) fail(MISSING);
  const { revision } = provenance('');
  const runner = new TrialRunner(store, { revision, engine: process.env['DDPNOPT_ENGINE'], ends });
  try {
    for (const { entry, section } of selected) {
      const name = `${entry.id}:${section.id}`;
      const [reason] = section.plan(store).trials.flatMap(({ trial }) => missingFiles(trial.dataSet) ?? []);
      if (reason !== undefined) {
        process.stdout.write(`${name} is left out: ${reason}\n`);
      } else if (!(await runSection(runner, name, section))) {
        process.stdout.write('The time is up; the same command goes on from here.\n');
        return false;
      }
    }
  } finally {
    await runner.stop();
  }
  return true;
}

/** Trials, and those that their outcomes lead to. */
async function runSection(runner: TrialRunner, name: string, section: Section): Promise<boolean> {
  const progress = new Progress();
  while (!isComplete(store, section)) {
    const isThrough = await runner.run(section.plan(store).trials, ({ group }, { milliseconds, validation }) => {
      progress.add(milliseconds);
      const result = validation === null ? 'diverged' : `validation ${validation.accuracy.toFixed(3)}`;
      process.stdout.write(`${name}: ${group}, ${result}; ${progress.line(store, section.plan(store))}\n`);
    });
    if (!isThrough) return false;
  }
  return true;
}

async function publish(): Promise<void> {
  for (const entry of CATALOGUE) {
    const pages = makePages(store, entry);
    if (pages === null) continue;
    if (options.quick) process.stdout.write(`\n${pages.files.get(`${entry.id}.md`) ?? ''}`);
    else await writeResults(entry.id, pages.stored, pages.files);
  }
  if (!options.quick) await writeClaims();
}
