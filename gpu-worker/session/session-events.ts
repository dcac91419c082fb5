/** The events of one session: a bounded history, and those who listen. */
import { LIMITS } from '../../shared/limits.ts';
import type { StepMetrics } from '../../shared/session.ts';
import type { EndReason, SessionEvent } from '../../shared/session-events.ts';

export type EventListener = (event: SessionEvent) => void;

export class SessionEvents {
  /** The last steps, in order. */
  #history: StepMetrics[] = [];
  readonly #listeners = new Set<EventListener>();
  #end: EndReason | null = null;

  get listeners(): number {
    return this.#listeners.size;
  }

  /** Takes the history of a session whose state was recovered, and may have lost steps. */
  recovered(history: readonly StepMetrics[]): void {
    this.#history = history.slice(-LIMITS.eventHistory);
  }

  /** A step that has been applied. */
  record(metrics: StepMetrics): void {
    this.#history.push(metrics);
    if (this.#history.length > LIMITS.eventHistory) this.#history.shift();
    this.#tell({ event: 'step', data: metrics });
  }

  /** No more events will follow. */
  end(reason: EndReason): void {
    this.#end ??= reason;
    this.#tell({ event: 'end', data: { reason } });
    this.#listeners.clear();
  }

  /**
   * Tells a listener first what is kept, then what happens.
   *
   * @param after the last step that it knows of; null for none of the history
   * @returns ends it
   */
  listen(after: number | null, nextStep: number, listener: EventListener): () => void {
    if (after !== null) {
      const first = this.#history[0]?.step ?? nextStep;
      if (first > after + 1) listener({ event: 'missed', data: { from: after + 1, to: first - 1 } });
      for (const metrics of this.#history) if (metrics.step > after) listener({ event: 'step', data: metrics });
    }
    if (this.#end !== null) listener({ event: 'end', data: { reason: this.#end } });
    else this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  #tell(event: SessionEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
