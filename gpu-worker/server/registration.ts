/** How a worker makes itself known to the edge: a signed report when it begins, with every heartbeat, and before it ends. */
import { verifyLease, type Lease } from '../../shared/lease.ts';
import { digestOf, type Signer } from '../../shared/signature.ts';
import { signCall } from '../../shared/signed-call.ts';
import { heartbeatAnswerSchema, type WorkerReport } from '../../shared/worker-report.ts';

export interface RegistrationOptions {
  /** Base URL of the edge. */
  readonly edgeUrl: string;
  readonly signer: Signer;
  readonly report: () => WorkerReport;
  /** Told of a report that has arrived. */
  readonly onReported: (report: WorkerReport) => void;
  /** Told of sessions that are this worker's from now on. */
  readonly adopt: (lease: Lease) => void;
  /** Told when heartbeats begin to fail, with the reason, and when they arrive again, with null. */
  readonly onChange: (failure: unknown) => void;
}

/** Milliseconds that the edge has at least to answer a heartbeat. */
const PATIENCE_MILLISECONDS = 2000;

export class Registration {
  readonly #options: RegistrationOptions;
  #timer: NodeJS.Timeout | undefined;
  #isFailing = false;
  #hasEnded = false;

  constructor(options: RegistrationOptions) {
    this.#options = options;
  }

  /** Sends a report, and one after every interval from then on. Never rejects: a heartbeat that fails is followed by the next. */
  async beat(): Promise<void> {
    clearTimeout(this.#timer);
    const report = this.#options.report();
    try {
      await this.#adopt(await this.#call('PUT', report, JSON.stringify(report)));
      this.#options.onReported(report);
      if (this.#isFailing) this.#options.onChange(null);
      this.#isFailing = false;
    } catch (error) {
      if (!this.#isFailing) this.#options.onChange(error);
      this.#isFailing = true;
    }
    if (this.#hasEnded) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.beat(), report.heartbeatMilliseconds);
  }

  /** Has the edge forget this worker. @throws Error if it cannot be told; it finds out by itself, later */
  async leave(): Promise<void> {
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    await this.#call('DELETE', this.#options.report(), '');
  }

  async #adopt(answer: string): Promise<void> {
    const { leases } = heartbeatAnswerSchema.parse(JSON.parse(answer));
    for (const token of leases) {
      const lease = await verifyLease(token, this.#options.signer);
      if (lease !== null) this.#options.adopt(lease);
    }
  }

  async #call(method: 'PUT' | 'DELETE', { id, heartbeatMilliseconds }: WorkerReport, body: string): Promise<string> {
    const { edgeUrl, signer } = this.#options;
    const url = new URL(`${edgeUrl.replace(/\/+$/, '')}/workers/${id}`);
    const length = Buffer.byteLength(body);
    const call = { method, path: url.pathname, length, lease: '', tenant: '', digest: await digestOf(body) };
    const response = await fetch(url, {
      method,
      headers: { 'content-type': 'application/json', ...(await signCall(call, signer, Date.now())) },
      ...(body === '' ? {} : { body }),
      signal: AbortSignal.timeout(Math.max(PATIENCE_MILLISECONDS, heartbeatMilliseconds)),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${url.href} answered ${String(response.status)}: ${text}`);
    return text;
  }
}
