/** What an isolate of the edge counts. On Cloudflare a request for the metrics meets one of many isolates, and reads that one’s. */
import { Counter, Histogram } from './prometheus.ts';
import type { RequestRecord } from './request-record.ts';

/** Seconds. */
const DURATIONS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export class EdgeMetrics {
  readonly #requests = new Counter('ddpnopt_edge_requests_total', 'Requests that were answered');
  readonly #seconds = new Histogram('ddpnopt_edge_request_seconds', 'From a request to its answer', DURATIONS);
  readonly #bytes = new Counter('ddpnopt_edge_body_bytes_total', 'Bytes of bodies, in and out');
  readonly #steps = new Counter('ddpnopt_edge_steps_total', 'Steps that workers reported as computed');
  readonly #flushes = new Counter(
    'ddpnopt_edge_usage_reports_failed_total',
    'Reports of usage that failed, to be sent again',
  );

  answered({ method, route, status, milliseconds, bytesIn, bytesOut, steps }: RequestRecord): void {
    this.#requests.add({ method, route, status });
    this.#seconds.observe({ method, route }, milliseconds / 1000);
    this.#bytes.add({ direction: 'in' }, bytesIn);
    this.#bytes.add({ direction: 'out' }, bytesOut);
    this.#steps.add({}, steps);
  }

  reportFailed(): void {
    this.#flushes.add({});
  }

  text(): string {
    return [this.#requests, this.#seconds, this.#bytes, this.#steps, this.#flushes]
      .map((family) => family.text())
      .join('');
  }
}
