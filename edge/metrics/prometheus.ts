/**
 * Counters and histograms in the text format of Prometheus. Its client for Node needs Node; this is what the edge has use for.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */

export const PROMETHEUS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

type Labels = Readonly<Record<string, string | number>>;

abstract class Family {
  readonly #name: string;
  readonly #help: string;
  readonly #type: string;

  constructor(name: string, help: string, type: string) {
    this.#name = name;
    this.#help = help;
    this.#type = type;
  }

  /** Suffix of the name, labels and value of every sample. */
  protected abstract samples(): Iterable<readonly [suffix: string, labels: Labels, value: number]>;

  text(): string {
    const lines = [`# HELP ${this.#name} ${this.#help}`, `# TYPE ${this.#name} ${this.#type}`];
    for (const [suffix, labels, value] of this.samples())
      lines.push(`${this.#name}${suffix}${labelText(labels)} ${String(value)}`);
    return `${lines.join('\n')}\n`;
  }
}

export class Counter extends Family {
  readonly #values = new Map<string, { readonly labels: Labels; value: number }>();

  constructor(name: string, help: string) {
    super(name, help, 'counter');
  }

  add(labels: Labels, value = 1): void {
    const name = labelText(labels);
    const series = this.#values.get(name);
    if (series === undefined) this.#values.set(name, { labels, value });
    else series.value += value;
  }

  protected *samples(): Generator<readonly [string, Labels, number]> {
    for (const { labels, value } of this.#values.values()) yield ['', labels, value];
  }
}

interface Distribution {
  readonly labels: Labels;
  /** Of each bucket alone, the last one without a bound. */
  readonly counts: number[];
  sum: number;
}

export class Histogram extends Family {
  readonly #bounds: readonly number[];
  readonly #values = new Map<string, Distribution>();

  /** @param bounds upper bounds of the buckets, ascending */
  constructor(name: string, help: string, bounds: readonly number[]) {
    super(name, help, 'histogram');
    this.#bounds = bounds;
  }

  observe(labels: Labels, value: number): void {
    const name = labelText(labels);
    const series = this.#values.get(name) ?? { labels, counts: Array<number>(this.#bounds.length + 1).fill(0), sum: 0 };
    this.#values.set(name, series);
    const bucket = this.#bounds.findIndex((bound) => value <= bound);
    const index = bucket < 0 ? this.#bounds.length : bucket;
    series.counts[index] = (series.counts[index] ?? 0) + 1;
    series.sum += value;
  }

  protected *samples(): Generator<readonly [string, Labels, number]> {
    for (const { labels, counts, sum } of this.#values.values()) {
      let cumulative = 0;
      for (const [index, count] of counts.entries()) {
        cumulative += count;
        yield ['_bucket', { ...labels, le: this.#bounds[index] ?? '+Inf' }, cumulative];
      }
      yield ['_sum', labels, sum];
      yield ['_count', labels, cumulative];
    }
  }
}

function labelText(labels: Labels): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escaped(String(value))}"`);
  return parts.length === 0 ? '' : `{${parts.join(',')}}`;
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
