/**
 * The runs of one hosted session: many steps on its data set, each in a turn of its own, one run at a time.
 *
 *     runs/<id>/<first>              the run that began with step <first>, as it was ordered and how it ended
 *
 * The record is there before the first step. With it, the data set and the step's number a step of it can be taken again.
 */
import { isDeepStrictEqual } from 'node:util';
import * as z from 'zod';
import type { DataSet } from '../../shared/data-set.ts';
import { internalProblem, ProblemError } from '../../shared/errors.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import { LIMITS } from '../../shared/limits.ts';
import { runNotFound, runOrderSchema, runSchema, type Run, type RunEvent, type RunOrder } from '../../shared/run.ts';
import { samplesOf } from '../../shared/sample-order.ts';
import type { SessionId } from '../../shared/session.ts';
import { checkHostedBatch } from '../../shared/step.ts';
import type { ObjectStore } from '../storage/storage.ts';
import type { SessionData } from './data-set.ts';
import type { SessionCompute } from './session-compute.ts';
import type { SessionEvents } from './session-events.ts';
import type { StepLog } from './step-log.ts';
import type { StepSequence } from './step-sequence.ts';

/** Between two tries of a step that failed for a reason that may pass. */
const RETRY_MILLISECONDS = 1000;

const runRecordSchema = z.strictObject({
  order: runOrderSchema,
  samples: z.int().min(1),
  startedAt: z.iso.datetime(),
  /** null while it runs. */
  end: runSchema
    .pick({ nextStep: true, metrics: true, problem: true })
    .extend({ state: z.enum(['finished', 'cancelled', 'failed']), endedAt: z.iso.datetime() })
    .nullable(),
});

type RunRecord = z.output<typeof runRecordSchema>;
type RunEnd = NonNullable<RunRecord['end']>;

/** The run that takes steps. */
interface ActiveRun {
  readonly firstStep: number;
  readonly record: RunRecord;
  /** Aborted when it is to take no more steps. */
  readonly stop: AbortController;
  /** Whether its client has asked for its end, which outlives the worker. */
  isCancelled: boolean;
  /** Settles when it takes no more steps. */
  readonly ended: Promise<void>;
}

export type RunListener = (event: RunEvent) => void;

/** Resolves after so many milliseconds, or at once when the signal is aborted. */
export type Pause = (milliseconds: number, signal?: AbortSignal) => Promise<void>;

/** What the runs are a part of. */
export interface RunsParent {
  readonly id: SessionId;
  readonly device: SessionCompute;
  readonly sequence: StepSequence;
  readonly data: SessionData;
  readonly events: SessionEvents;
  readonly log: StepLog | null;
  /** Of the session's objects; null where it lives in memory alone. */
  readonly storage: ObjectStore | null;
  /** As it is now. @throws ProblemError `not_hosted` */
  readonly definition: () => HostedDefinition;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly pause: Pause;
  /** Makes the state on the device anew after it was given up. */
  readonly reopen: () => Promise<void>;
  /** Uses what is stored; a session that another worker owns by now is closed. */
  readonly owning: <Result>(work: () => Promise<Result>) => Promise<Result>;
  readonly reportFailure: (error: unknown) => void;
}

export class SessionRuns {
  readonly #parent: RunsParent;
  /** By first step, in order. */
  #records = new Map<number, RunRecord>();
  #active: ActiveRun | null = null;
  /** Whether the worker stops: what has not ended goes on elsewhere, or later. */
  #isSuspended = false;
  /** What is told to those who listen to the active run. */
  readonly #listeners = new Set<RunListener>();

  constructor(parent: RunsParent) {
    this.#parent = parent;
  }

  /** The first step of the run that takes steps; null if none does. */
  get running(): number | null {
    return this.#active?.firstStep ?? null;
  }

  /** The problem of whoever would take steps, or take away data, while a run does; null while none does. */
  get refusal(): ProblemError | null {
    if (this.#active === null) return null;
    const { firstStep, record } = this.#active;
    const end = firstStep + record.order.steps;
    return new ProblemError('run_in_progress', {
      param: 'n',
      detail: `Run ${String(firstStep)} is taking the steps from ${String(firstStep)} to ${String(end - 1)}; it stands at step ${String(this.#parent.sequence.nextStep)}.`,
      remedy: `Wait until it has ended, or DELETE …/runs/${String(firstStep)} to cancel it.`,
    });
  }

  /**
   * Begins the run whose first step is n, the next one; or describes it, if it has begun.
   *
   * @throws ProblemError `not_hosted`, `run_conflict`, `run_in_progress`, `step_applied`, `step_out_of_order`, `session_rewound`,
   *   `data_missing`, `invalid_parameter`, `step_too_large`, `memory_full`, `queue_full`, those of `Storage`; there is then no such run
   */
  async begin(n: number, order: RunOrder): Promise<Run> {
    const known = this.#known(n, order);
    if (known !== null) return known;
    const { device, data, definition, now } = this.#parent;
    try {
      // Before its turn, in which the device would wait for it.
      await data.load(this.#samplesFor(order), definition());
      return await device.inTurn(async () => {
        const same = this.#known(n, order);
        if (same !== null) return same;
        device.assertOpen();
        const samples = this.#samplesFor(order);
        await data.load(samples, definition());
        const record: RunRecord = { order, samples, startedAt: new Date(now()).toISOString(), end: null };
        await this.#write(n, record);
        this.#start(n, record);
        return this.describe(n);
      });
    } finally {
      if (this.#active === null) data.release();
    }
  }

  /** The run as it was ordered before, null if this is a new one that may begin. */
  #known(n: number, order: RunOrder): Run | null {
    const { device, sequence } = this.#parent;
    device.assertNotClosed();
    const record = this.#records.get(n);
    // One that has ended before its first step leaves the number to the next.
    const hasLeft = record?.end?.nextStep === n && sequence.nextStep === n;
    if (record !== undefined && !hasLeft) {
      if (isDeepStrictEqual(record.order, order)) return this.describe(n);
      throw new ProblemError('run_conflict', {
        param: 'n',
        detail: `Run ${String(n)} was begun as ${JSON.stringify(record.order)}.`,
        remedy: 'To ask for it again, send the same order; another run begins with the session’s nextStep.',
      });
    }
    if (this.refusal !== null) throw this.refusal;
    if (n > sequence.nextStep) throw sequence.outOfOrder(n);
    if (n < sequence.nextStep) throw sequence.applied(n);
    return null;
  }

  /** How many samples there are to draw from. @throws ProblemError unless they are enough */
  #samplesFor({ batch }: RunOrder): number {
    const { data, definition } = this.#parent;
    checkHostedBatch(definition(), batch, 'batch');
    const { samples, missingChunks, chunks } = data.describe();
    if (chunks.length === 0 || missingChunks.length > 0) throw dataMissing({ missingChunks, chunks });
    if (samples >= batch) return samples;
    throw new ProblemError('invalid_parameter', {
      param: 'batch',
      detail: `batch is ${String(batch)}; the data set has ${String(samples)} samples.`,
      remedy: 'Take smaller batches, or send more samples.',
    });
  }

  /** @throws ProblemError `run_not_found` */
  describe(n: number): Run {
    const record = this.#records.get(n);
    if (record === undefined) throw runNotFound(n);
    const { order, samples, startedAt, end } = record;
    const { nextStep, metrics } = this.#parent.sequence;
    return {
      ...order,
      firstStep: n,
      samples,
      startedAt,
      ...(end ?? { state: 'running', nextStep, metrics: nextStep > n ? metrics : null, problem: null, endedAt: null }),
    };
  }

  /** Those that are known, in their order. */
  list(): Run[] {
    return [...this.#records.keys()].map((n) => this.describe(n));
  }

  /**
   * Ends a run after the step that is being computed, if one is. A run that has ended stays as it is.
   *
   * @throws ProblemError `run_not_found`; what a closed session is told
   */
  async cancel(n: number): Promise<Run> {
    this.#parent.device.assertNotClosed();
    this.describe(n);
    if (this.#active?.firstStep === n) {
      this.#active.isCancelled = true;
      this.#active.stop.abort();
      await this.#active.ended;
      this.#parent.device.assertNotClosed();
    }
    return this.describe(n);
  }

  /**
   * Tells a listener the steps of a run, and at last the run itself. While it runs it is told of first, too.
   *
   * @param after the last step that the listener knows of; null for none of them
   * @returns ends it
   * @throws ProblemError `run_not_found`
   */
  listen(n: number, after: number | null, listener: RunListener): () => void {
    const { events, sequence } = this.#parent;
    const run = this.describe(n);
    const last = run.state === 'running' ? Infinity : run.nextStep - 1;
    if (run.state === 'running') listener({ event: 'run', data: run });
    const ignore = events.listen(Math.max(after ?? -1, n - 1), sequence.nextStep, (event) => {
      if (event.event === 'missed') {
        const { from, to } = event.data;
        if (from <= last) listener({ event: 'missed', data: { from, to: Math.min(to, last) } });
      } else if (event.event === 'end' || event.data.step <= last) listener(event);
    });
    if (run.state !== 'running') {
      ignore();
      listener({ event: 'run', data: run });
      return ignore;
    }
    this.#listeners.add(listener);
    return () => {
      ignore();
      this.#listeners.delete(listener);
    };
  }

  #start(firstStep: number, record: RunRecord): void {
    this.#records.set(firstStep, record);
    const stop = new AbortController();
    const { promise: ended, resolve } = Promise.withResolvers<undefined>();
    const active: ActiveRun = { firstStep, record, stop, isCancelled: false, ended };
    this.#active = active;
    void this.#go(active).finally(() => {
      resolve(undefined);
    });
  }

  /** Takes the steps. Never rejects. */
  async #go(active: ActiveRun): Promise<void> {
    const { device, sequence, data, pause, reopen, reportFailure } = this.#parent;
    const { firstStep, record, stop } = active;
    const { order, samples } = record;
    const draw = samplesOf({ ...order, samples });
    const end = firstStep + order.steps;
    let problem: ProblemError | null = null;
    let defects = 0;
    const isStopped = (): boolean => device.isClosed || stop.signal.aborted;
    while (!isStopped() && problem === null && sequence.nextStep < end) {
      try {
        // A step that could not be stored has given up the state.
        if (!device.isOpen) await reopen();
        const batches = await data.load(samples, this.#parent.definition());
        const n = sequence.nextStep;
        await sequence.takeOfRun(n, firstStep, batches.body(draw(n)), stop.signal);
      } catch (error) {
        if (isStopped()) break;
        // A worker whose device or storage fails is about to end, and no fault of the run.
        const mayPass = error instanceof ProblemError ? error.retryable : defects++ === 0;
        if (!(error instanceof ProblemError)) reportFailure(error);
        if (mayPass) await pause(RETRY_MILLISECONDS, stop.signal);
        else problem = error instanceof ProblemError ? error : internalProblem(error);
      }
    }
    data.release();
    await this.#end(active, problem);
  }

  async #end(active: ActiveRun, problem: ProblemError | null): Promise<void> {
    const { device, sequence, now, pause } = this.#parent;
    const { firstStep, record } = active;
    const isLeft = (): boolean => device.isClosed || (this.#isSuspended && !active.isCancelled);
    // Whoever has the session next goes on with it.
    if (isLeft()) return;
    const { nextStep, metrics } = sequence;
    const state = problem !== null ? 'failed' : nextStep < firstStep + record.order.steps ? 'cancelled' : 'finished';
    const end: RunEnd = {
      state,
      nextStep,
      metrics: nextStep > firstStep ? metrics : null,
      problem: problem === null ? null : runProblem(problem),
      endedAt: new Date(now()).toISOString(),
    };
    const ended = { ...record, end };
    // What has ended stays so: a record that cannot be written now is written later.
    while (!isLeft()) {
      try {
        await this.#write(firstStep, ended);
        break;
      } catch (error) {
        this.#parent.reportFailure(error);
        // A worker that stops does not wait for its storage.
        if (this.#isSuspended) return;
        await pause(RETRY_MILLISECONDS);
      }
    }
    this.#records.set(firstStep, ended);
    this.#active = null;
    const event: RunEvent = { event: 'run', data: this.describe(firstStep) };
    for (const listener of this.#listeners) listener(event);
    this.#listeners.clear();
  }

  /** Writes a run's record, and forgets runs that nobody asks for any more. */
  async #write(firstStep: number, record: RunRecord): Promise<void> {
    const { log, storage, owning } = this.#parent;
    // Those that a recovery takes steps of again stay.
    const replayedFrom = log?.replayedFrom ?? Infinity;
    const others = [...this.#records].filter(([n]) => n !== firstStep);
    const surplus = others
      .slice(0, Math.max(0, others.length + 1 - LIMITS.runs))
      .filter(([, { end }]) => end !== null && end.nextStep <= replayedFrom)
      .map(([n]) => n);
    if (storage !== null) {
      const bytes = new TextEncoder().encode(JSON.stringify(record));
      const puts = [{ key: this.#key(firstStep), bytes, digest: null }];
      await owning(() => storage.write({ puts, deletes: surplus.map((n) => this.#key(n)) }));
    }
    for (const n of surplus) this.#records.delete(n);
  }

  /** Reads what is stored, before the state is recovered. @throws ProblemError those of `Storage` */
  async read(): Promise<void> {
    const { storage } = this.#parent;
    if (storage === null || this.#active !== null) return;
    const records: [number, RunRecord][] = [];
    for (const { key } of await storage.list(this.#prefix)) {
      const bytes = await storage.read(key);
      if (bytes === null) continue;
      const parsed = runRecordSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
      if (!parsed.success) {
        throw new ProblemError('storage_damaged', {
          detail: `${key} is not of this version’s form: ${parsed.error.message}.`,
          remedy: 'Run the worker’s version that wrote it.',
        });
      }
      records.push([Number(key.slice(this.#prefix.length)), parsed.data]);
    }
    this.#records = new Map(records.toSorted(([a], [b]) => a - b));
  }

  /** The body of step n of a run, for who takes the step again. @throws ProblemError `storage_damaged`, as `SessionData.load` */
  async stepOfRun(firstStep: number, n: number): Promise<Uint8Array<ArrayBuffer>> {
    const record = this.#records.get(firstStep);
    if (record === undefined) {
      throw new ProblemError('storage_damaged', {
        detail: `The record of run ${String(firstStep)} of session ${this.#parent.id} is missing.`,
        remedy: 'Start a session from an older checkpoint, or restore the storage from a backup.',
      });
    }
    const { order, samples } = record;
    const batches = await this.#parent.data.load(samples, this.#parent.definition());
    return batches.body(samplesOf({ ...order, samples })(n));
  }

  /** Goes on with the run that had not ended, once the state is recovered. @throws ProblemError those of `Storage` */
  async resume(): Promise<void> {
    if (this.#active !== null) return;
    const { data, sequence, storage, owning } = this.#parent;
    data.release();
    const { nextStep } = sequence;
    // Of steps that are lost, so are the runs.
    const lost = [...this.#records.keys()].filter((firstStep) => firstStep > nextStep);
    for (const firstStep of lost) this.#records.delete(firstStep);
    if (storage !== null && lost.length > 0) {
      await owning(() => storage.write({ puts: [], deletes: lost.map((firstStep) => this.#key(firstStep)) }));
    }
    const unfinished = this.#unfinished(nextStep);
    if (unfinished !== undefined) this.#start(...unfinished);
  }

  /** Whether something is stored that is to go on. @throws ProblemError those of `Storage` */
  async hasUnfinished(): Promise<boolean> {
    await this.read();
    return this.#unfinished(Infinity) !== undefined;
  }

  /** The run that was to go on; also one that had ended, of whose steps a damaged storage has lost some. */
  #unfinished(nextStep: number): [number, RunRecord] | undefined {
    const found = [...this.#records].find(
      ([, { end }]) => end === null || (end.state === 'finished' && end.nextStep > nextStep),
    );
    return found === undefined ? undefined : [found[0], { ...found[1], end: null }];
  }

  /** Takes no more steps: the worker stops. Resolves when none is under way. */
  async suspend(): Promise<void> {
    this.#isSuspended = true;
    this.#active?.stop.abort();
    await this.#active?.ended;
  }

  /** A closed session's run takes no more steps; its next owner goes on with it. */
  close(): void {
    this.#active?.stop.abort();
    this.#listeners.clear();
  }

  get #prefix(): string {
    return `runs/${this.#parent.id}/`;
  }

  /** So that the order of keys is that of numbers. */
  #key(firstStep: number): string {
    return `${this.#prefix}${String(firstStep).padStart(16, '0')}`;
  }
}

function runProblem(problem: ProblemError): RunEnd['problem'] {
  const { code, title, detail, remedy, param } = problem.toProblem('');
  return { code, title, detail, remedy, ...(param === undefined ? {} : { param }) };
}

function dataMissing({ missingChunks, chunks }: Pick<DataSet, 'missingChunks' | 'chunks'>): ProblemError {
  const missing = chunks.length === 0 ? [0] : missingChunks;
  return new ProblemError('data_missing', {
    missingChunks: missing,
    detail:
      chunks.length === 0
        ? 'The session has no data set to take steps on.'
        : `Of the data set the chunks ${missing.slice(0, 10).join(', ')}${missing.length > 10 ? ', …' : ''} are missing, without which its samples have no numbers.`,
    remedy: 'Send the chunks with PUT …/data/{k}, then begin the run again.',
  });
}
