/** The placement directory as a Durable Object: one for the whole service. */
import { DurableObject } from 'cloudflare:workers';
import type { SessionId } from '../../shared/session.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { WorkerId, WorkerReport } from '../../shared/worker-report.ts';
import { durableObjectSql } from '../state/durable-object-sql.ts';
import {
  PlacementDirectory,
  type FailedLease,
  type KnownWorker,
  type PlacedLease,
  type Reservation,
} from './placement-directory.ts';

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

  reserve(session: SessionId, tenant: Tenant, quota: number | null): Reservation | null {
    return this.#directory.reserve(session, tenant, quota);
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
