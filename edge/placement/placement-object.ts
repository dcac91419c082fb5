/** The placement directory as a Durable Object: one for the whole service. */
import { DurableObject } from 'cloudflare:workers';
import type { SessionId } from '../../shared/session.ts';
import type { WorkerId, WorkerReport } from '../../shared/worker-report.ts';
import { durableObjectSql } from '../state/durable-object-sql.ts';
import { PlacementDirectory, type FailedLease, type KnownWorker, type PlacedLease } from './placement-directory.ts';

export class PlacementObject extends DurableObject<Env> {
  readonly #directory: PlacementDirectory;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#directory = new PlacementDirectory(durableObjectSql(state.storage), Date.now);
  }

  heartbeat(report: WorkerReport): PlacedLease[] {
    return this.#directory.heartbeat(report);
  }

  leave(id: WorkerId): void {
    this.#directory.leave(id);
  }

  lease(session: SessionId, failed: FailedLease | null): PlacedLease | null {
    return this.#directory.lease(session, failed);
  }

  release(session: SessionId, epoch: number): void {
    this.#directory.release(session, epoch);
  }

  anyWorker(failed: string | null): string | null {
    return this.#directory.anyWorker(failed);
  }

  workers(): KnownWorker[] {
    return this.#directory.workers();
  }
}
