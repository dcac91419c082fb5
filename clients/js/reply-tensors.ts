/** The tensors of a step's reply by name. */
import {
  readHeader,
  readValues,
  type SafetensorsHeader,
  type TensorEntry,
  type TensorValues,
} from '../../shared/safetensors.ts';
import { stepMetricsSchema, type StepMetrics } from '../../shared/session.ts';

export class ReplyTensors {
  readonly #body: Uint8Array;
  readonly #header: SafetensorsHeader;
  readonly #entries: ReadonlyMap<string, TensorEntry>;

  /** @throws ProblemError if the body is no safetensors file */
  constructor(body: Uint8Array) {
    this.#body = body;
    this.#header = readHeader(body);
    this.#entries = new Map(this.#header.entries.map((entry) => [entry.name, entry]));
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** @throws RangeError if the reply lacks it */
  values(name: string): TensorValues {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new RangeError(`it lacks ${name}`);
    return readValues(this.#body, this.#header, entry);
  }

  /** A scalar. @throws RangeError if the reply lacks it */
  number(name: string): number {
    return this.values(name)[0] ?? Number.NaN;
  }

  /** The step's metrics. @throws ZodError if they are of another form */
  metrics(): StepMetrics {
    return stepMetricsSchema.parse(JSON.parse(this.#header.metadata['metrics'] ?? 'null'));
  }
}
