/** What the worker counts, for Prometheus. Every series is of this process since it began. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Meter } from '../session/session-compute.ts';
import type { RequestRecord } from './request-record.ts';

/** Seconds. */
const DURATIONS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** What is read when somebody asks. */
export interface WorkerLevels {
  readonly sessions: () => number;
  /** Jobs that wait for the device. */
  readonly queue: () => number;
  /** Bytes of the sessions' states when they are largest. */
  readonly stateBytes: () => number;
}

export class WorkerMetrics implements Meter {
  readonly elapsed: () => number;
  readonly #registry = new Registry();
  readonly #requests: Counter<'method' | 'route' | 'status'>;
  readonly #requestSeconds: Histogram<'method' | 'route'>;
  readonly #requestBytes: Counter<'direction'>;
  readonly #steps: Counter;
  readonly #stepSeconds: Histogram;
  readonly #waitSeconds: Histogram;
  readonly #refreshFailures: Counter;
  readonly #storageWrites: Counter<'result'>;

  /** @param elapsed milliseconds, on a clock that never goes back */
  constructor(elapsed: () => number, levels: WorkerLevels) {
    this.elapsed = elapsed;
    const registers = [this.#registry];
    const counter = <Label extends string>(name: string, help: string, ...labelNames: Label[]): Counter<Label> =>
      new Counter({ name, help, labelNames, registers });
    const histogram = <Label extends string>(name: string, help: string, ...labelNames: Label[]): Histogram<Label> =>
      new Histogram({ name, help, labelNames, registers, buckets: DURATIONS });
    const gauge = (name: string, help: string, read: () => number): void => {
      const collect = function (this: Gauge): void {
        this.set(read());
      };
      new Gauge({ name, help, registers, collect });
    };
    this.#requests = counter('ddpnopt_requests_total', 'Requests that were answered', 'method', 'route', 'status');
    this.#requestSeconds = histogram('ddpnopt_request_seconds', 'From a request to its answer', 'method', 'route');
    this.#requestBytes = counter('ddpnopt_body_bytes_total', 'Bytes of bodies, `in` and `out`', 'direction');
    this.#steps = counter('ddpnopt_steps_total', 'Steps that were computed');
    this.#stepSeconds = histogram('ddpnopt_step_seconds', 'The device’s time for a step');
    this.#waitSeconds = histogram('ddpnopt_queue_wait_seconds', 'What work waits for its turn on the device');
    this.#refreshFailures = counter(
      'ddpnopt_refresh_failures_total',
      'Inversions that failed and kept the last inverse',
    );
    this.#storageWrites = counter('ddpnopt_storage_writes_total', 'Writes to storage, `ok` or `failed`', 'result');
    gauge('ddpnopt_sessions', 'Sessions that are held', levels.sessions);
    gauge('ddpnopt_queue_length', 'Jobs that wait for the device', levels.queue);
    gauge('ddpnopt_state_bytes', 'Bytes of the sessions’ states when they are largest', levels.stateBytes);
  }

  readonly waited = (seconds: number): void => {
    this.#waitSeconds.observe(seconds);
  };

  readonly stepped = (seconds: number, failedFactorizations: number): void => {
    this.#steps.inc();
    this.#stepSeconds.observe(seconds);
    this.#refreshFailures.inc(failedFactorizations);
  };

  readonly stored = (result: 'ok' | 'failed'): void => {
    this.#storageWrites.inc({ result });
  };

  readonly answered = ({ method, route, status, milliseconds, bytesIn, bytesOut }: RequestRecord): void => {
    this.#requests.inc({ method, route, status });
    this.#requestSeconds.observe({ method, route }, milliseconds / 1000);
    this.#requestBytes.inc({ direction: 'in' }, bytesIn);
    this.#requestBytes.inc({ direction: 'out' }, bytesOut);
  };

  /** In the text format of Prometheus. */
  async text(): Promise<{ readonly contentType: string; readonly body: string }> {
    return { contentType: this.#registry.contentType, body: await this.#registry.metrics() };
  }
}
