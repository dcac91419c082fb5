/** Parts of a worker for tests that run in one process: the device's work done in place, and sessions that live in memory. */
import type { Compute } from '../gpu-worker/engine/compute.ts';
import { SessionRegistry, type RegistryOptions } from '../gpu-worker/session/registry.ts';
import type { SessionResources } from '../gpu-worker/session/session.ts';
import { IN_MEMORY, openSqliteStorage } from '../gpu-worker/storage/sqlite.ts';
import type { Storage } from '../gpu-worker/storage/storage.ts';
import type { Engine } from '../gpu-worker/tensor/engine.ts';
import { solveKernels } from '../gpu-worker/training/kernel-solve.ts';
import type { Trainers } from '../gpu-worker/training/trainers.ts';

/** Runs a piece of the device's work, named by its kind. */
type Run = <Result>(kind: string, work: () => Result) => Promise<Result>;

const soon: Run = (_, work) => Promise.resolve().then(work);

export function computeInPlace(engine: Engine, trainers: Trainers, run: Run = soon): Compute {
  return {
    engine: engine.name,
    open: (id, definition) =>
      soon('open', () => {
        trainers.open(id, definition);
      }),
    restore: (id, file) => run('restore', () => trainers.restore(id, file)),
    redefine: (id, definition) =>
      soon('redefine', () => {
        trainers.redefine(id, definition);
      }),
    save: (id, origin) => run('save', () => trainers.save(id, origin)),
    inspect: (bytes) => run('inspect', () => ({ summary: trainers.inspect(bytes), bytes })),
    step: (id, body) => run('step', () => ({ ...trainers.step(id, body), body })),
    weights: (id) => run('weights', () => trainers.weights(id)),
    predict: (id, body) => run('predict', () => trainers.predict(id, body)),
    checkChunk: (id, body) =>
      run('checkChunk', () => {
        trainers.checkChunk(id, body);
        return body;
      }),
    solve: (options, body) => run('solve', () => solveKernels(engine, body, options)),
    close: (id) => {
      trainers.close(id);
    },
  };
}

export function openMemory(): Promise<Storage> {
  return openSqliteStorage({ file: IN_MEMORY, maximumBytes: 1e8, survives: 'process', isShared: false });
}

export const UNOBSERVED: SessionResources['meter'] = {
  elapsed: () => performance.now(),
  waited: () => undefined,
  stepped: () => undefined,
};

/** What is tried again is tried at once. */
export const briefly: SessionResources['pause'] = () => new Promise((resolve) => void setImmediate(resolve));

/** Sessions that nothing is to be reported of. */
export function registryOf(
  resources: Omit<SessionResources, 'report' | 'meter' | 'pause'> & Partial<Pick<SessionResources, 'meter' | 'pause'>>,
  options: Pick<RegistryOptions, 'limit' | 'storage'> & Partial<RegistryOptions>,
): SessionRegistry {
  const unexpected = (what: unknown): never => {
    throw new Error('there is nothing to report', { cause: what });
  };
  return new SessionRegistry(
    { meter: UNOBSERVED, pause: briefly, ...resources, report: unexpected },
    {
      log: { snapshotSteps: 100, snapshotBytes: 1e8, acknowledge: 'durable' },
      retention: 0,
      retainedReplyBytes: 1e8,
      dataBytesInMemory: 1e8,
      isStorageShared: false,
      reportFailure: unexpected,
      ...options,
    },
  );
}
