/** The bodies of a session's last steps, to be sent again if the service has lost them. */

export interface ReplayLimits {
  /** How many steps are kept; 0 keeps none. */
  readonly steps: number;
  /** How many bytes their bodies may have together. */
  readonly bytes: number;
}

export const DEFAULT_REPLAY: ReplayLimits = { steps: 32, bytes: 64_000_000 };

export class ReplayBuffer {
  readonly #limits: ReplayLimits;
  readonly #bodies: Uint8Array<ArrayBuffer>[] = [];
  #begin = 0;
  #bytes = 0;

  constructor(limits: ReplayLimits) {
    this.#limits = limits;
  }

  /** The first step that is held; null if there is none. */
  get oldest(): number | null {
    return this.#bodies.length === 0 ? null : this.#begin;
  }

  /** Keeps step n's body, which must not be changed from now on; drops the oldest ones that find no room, and those from n on. */
  keep(n: number, body: Uint8Array<ArrayBuffer>): void {
    if (n < this.#begin || n > this.#begin + this.#bodies.length) this.clear();
    if (this.#bodies.length === 0) this.#begin = n;
    for (const dropped of this.#bodies.splice(n - this.#begin)) this.#bytes -= dropped.length;
    this.#bodies.push(body);
    this.#bytes += body.length;
    while (this.#bodies.length > this.#limits.steps || this.#bytes > this.#limits.bytes) {
      this.#bytes -= this.#bodies.shift()?.length ?? 0;
      this.#begin++;
    }
  }

  /** Step n's body; undefined if it is not held. */
  get(n: number): Uint8Array<ArrayBuffer> | undefined {
    return this.#bodies[n - this.#begin];
  }

  clear(): void {
    this.#bodies.length = 0;
    this.#bytes = 0;
  }
}
