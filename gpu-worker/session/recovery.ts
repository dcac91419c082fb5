/** A session's state from what storage holds of it: the newest good snapshot, and the steps since, applied again. */
import { ProblemError, type ProblemCode } from '../../shared/errors.ts';
import type { SessionDefinition, SessionId, StepMetrics } from '../../shared/session.ts';
import type { Compute } from '../engine/compute.ts';
import type { RetainedReply } from './retained-replies.ts';
import { runOf, type LoggedStep, type SessionHistory, type StepLog } from './step-log.ts';

export interface RecoveredState {
  readonly definition: SessionDefinition;
  /** The first step that the definition's options hold for, as far as storage says: since the last snapshot. */
  readonly optimizerFromStep: number | null;
  readonly nextStep: number;
  /** Of the last step; null before the first. */
  readonly metrics: StepMetrics | null;
  /** Of the last steps, as far as they are known. */
  readonly history: readonly StepMetrics[];
  /** Null where the state is that of a snapshot. */
  readonly lastReply: RetainedReply | null;
}

/** What a worker reports of the sessions that it finds in storage. */
export interface RecoveryReport {
  readonly event: 'session_recovered' | 'session_damaged';
  readonly session: SessionId;
  /** Steps that were applied again, on top of those in the snapshot. */
  readonly replayedSteps?: number;
  readonly nextStep?: number;
  /** Steps that were acknowledged and could not be had back. */
  readonly lostSteps?: number;
  readonly reason?: string;
}

export interface RecoveryResources {
  readonly compute: Compute;
  /** Runs a piece of the work in the session's turn on the device. */
  readonly inTurn: <Result>(work: () => Promise<Result>) => Promise<Result>;
  readonly report: (report: RecoveryReport) => void;
  /** The body of step n of the run that began with step `run`. @throws ProblemError as `SessionData.load` */
  readonly stepOfRun: (run: number, n: number) => Promise<Uint8Array<ArrayBuffer>>;
}

/**
 * Makes the state on the device. What cannot be read ends the recovery at the step before it: the session has lost the steps from
 * there on.
 *
 * @param definition as it was at first
 * @throws ProblemError `storage_damaged` if there is no good state to begin with; `storage_unavailable`
 */
export async function recover(
  id: SessionId,
  definition: SessionDefinition,
  log: StepLog,
  resources: RecoveryResources,
): Promise<RecoveredState> {
  const { compute, inTurn, report } = resources;
  const history = await log.history();
  const damage: string[] = [];
  for (const snapshot of origins(history)) {
    try {
      const origin = await begin(id, definition, snapshot, log, { compute, inTurn });
      const { reason, ...replayed } = await replay(id, origin, history, log, resources);
      if (reason !== null) damage.push(reason);
      const state = await withLastOptions(id, replayed, history, log, { compute, inTurn });
      await log.resume(history, snapshot, state.nextStep, state.definition.optimizer);
      const { nextStep } = state;
      if (history.end > nextStep) {
        const lostSteps = history.end - nextStep;
        report({ event: 'session_damaged', session: id, lostSteps, nextStep, reason: damage.join('; ') });
      } else if (nextStep > 0) {
        report({ event: 'session_recovered', session: id, replayedSteps: nextStep - origin.nextStep, nextStep });
      }
      return state;
    } catch (error) {
      if (!isDamage(error)) throw error;
      damage.push(error.details.detail);
    }
  }
  const reason = damage.join('; ');
  report({ event: 'session_damaged', session: id, reason });
  throw new ProblemError('storage_damaged', {
    param: 'id',
    detail: `Nothing stored of session ${id} leads to its state: ${reason === '' ? 'its first steps are missing' : reason}.`,
    remedy: 'Start a session from a checkpoint, or restore the worker’s storage from a backup.',
  });
}

/** Where the state may come from, best first: the newest snapshot; the initial state, where the log goes back to it. */
function origins({ snapshots, steps, end }: SessionHistory): (number | null)[] {
  return steps.has(0) || end === 0 ? [...snapshots, null] : [...snapshots];
}

async function begin(
  id: SessionId,
  definition: SessionDefinition,
  snapshot: number | null,
  log: StepLog,
  { compute, inTurn }: Pick<RecoveryResources, 'compute' | 'inTurn'>,
): Promise<RecoveredState> {
  if (snapshot === null) {
    await inTurn(() => compute.open(id, definition));
    return { definition, optimizerFromStep: null, nextStep: 0, metrics: null, history: [], lastReply: null };
  }
  const file = await log.readSnapshot(snapshot);
  const { definition: saved, step, metrics } = await inTurn(() => compute.restore(id, file));
  const history = metrics === null ? [] : [metrics];
  return { definition: saved, optimizerFromStep: null, nextStep: step, metrics, history, lastReply: null };
}

/** The state with the options that hold from a step on. */
async function withOptions(
  id: SessionId,
  state: RecoveredState,
  from: number,
  log: StepLog,
  { compute, inTurn }: Pick<RecoveryResources, 'compute' | 'inTurn'>,
): Promise<RecoveredState> {
  const definition = await log.readOptions(from, state.definition);
  await inTurn(() => compute.redefine(id, definition));
  return { ...state, definition, optimizerFromStep: state.nextStep };
}

/** The state with the last options of all: those that were to hold from a step on that is lost hold from where the session goes on. */
async function withLastOptions(
  id: SessionId,
  state: RecoveredState,
  { options }: SessionHistory,
  log: StepLog,
  resources: Pick<RecoveryResources, 'compute' | 'inTurn'>,
): Promise<RecoveredState> {
  const last = options.at(-1);
  if (last === undefined || last < state.nextStep || last === state.optimizerFromStep) return state;
  return withOptions(id, state, last, log, resources);
}

/** Applies the steps that follow, up to the first one that is missing or cannot be applied. */
async function replay(
  id: SessionId,
  origin: RecoveredState,
  { steps, options }: SessionHistory,
  log: StepLog,
  { compute, inTurn, stepOfRun }: Omit<RecoveryResources, 'report'>,
): Promise<RecoveredState & { readonly reason: string | null }> {
  let state = origin;
  for (let next = steps.get(state.nextStep); next !== undefined; next = steps.get(state.nextStep)) {
    const step: LoggedStep = next;
    try {
      if (options.includes(step.n)) state = await withOptions(id, state, step.n, log, { compute, inTurn });
      const run = runOf(step);
      const body = run === null ? await log.readStep(step) : await stepOfRun(run, step.n);
      const { metrics, answer } = await inTurn(() => compute.step(id, body));
      const lastReply = { step: step.n, digest: step.digest, answer };
      const history = [...state.history, metrics];
      state = { ...state, nextStep: step.n + 1, metrics, history, lastReply };
    } catch (error) {
      if (!isDamage(error)) throw error;
      return { ...state, reason: error.details.detail };
    }
  }
  return { ...state, reason: null };
}

const NO_DAMAGE: ReadonlySet<ProblemCode> = new Set(['session_not_found', 'internal']);

/** Whether something stored is at fault, rather than the storage or the device. */
function isDamage(error: unknown): error is ProblemError {
  return error instanceof ProblemError && !error.retryable && !NO_DAMAGE.has(error.code);
}
