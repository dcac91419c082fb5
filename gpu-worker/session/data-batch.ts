/** Batches of a data set's samples, as the bodies of steps. */
import { HOSTED_TENSOR, hostedStepTensors } from '../../shared/hosted-tensors.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import {
  commonDtype,
  elementBytes,
  emptyBody,
  layOut,
  readHeader,
  readValues,
  type Dtype,
  type SafetensorsHeader,
  type TensorEntry,
} from '../../shared/safetensors.ts';
import { elementCount } from '../../shared/shape.ts';

/** A chunk in memory. */
interface LoadedChunk {
  readonly body: Uint8Array;
  readonly header: SafetensorsHeader;
  /** Number of its first sample, and of the first one behind it. */
  readonly begin: number;
  readonly end: number;
}

/** A tensor of a step, and where its rows are. */
interface Column {
  readonly name: string;
  /** Of the batch. */
  readonly dtype: Dtype;
  /** Behind the samples. */
  readonly shape: readonly number[];
  /** By chunk; null where a chunk lacks the weights of its samples. */
  readonly entries: readonly (TensorEntry | null)[];
}

export class DataBatches {
  readonly #chunks: readonly LoadedChunk[];
  readonly #columns: readonly Column[];

  /** @param bodies of the chunks in order, each of which has passed `checkChunkHeader` */
  constructor(bodies: readonly Uint8Array[], definition: Pick<HostedDefinition, 'model' | 'loss'>) {
    let end = 0;
    this.#chunks = bodies.map((body) => {
      const header = readHeader(body);
      const begin = end;
      end += entryOf(header, HOSTED_TENSOR.samples)?.shape[0] ?? 0;
      return { body, header, begin, end };
    });
    this.#columns = hostedStepTensors(definition)
      .flatMap(({ name }) => this.#column(name))
      // Wide elements first, so that every tensor is aligned to its element.
      .toSorted((a, b) => elementBytes(b.dtype) - elementBytes(a.dtype));
  }

  /** The step on these samples: what a client would send, value for value. */
  body(samples: Uint32Array): Uint8Array<ArrayBuffer> {
    const plan = layOut(this.#columns.map(({ name, dtype, shape }) => ({ name, dtype, shape: [samples.length, ...shape] }))); // prettier-ignore
    const body = emptyBody(plan);
    for (const [index, sample] of samples.entries()) {
      const position = this.#chunkOf(sample);
      const chunk = this.#chunks[position];
      if (chunk === undefined) throw new RangeError(`there is no sample ${String(sample)}`);
      for (const [column, { dtype, shape, entries }] of this.#columns.entries()) {
        const start = plan.header.dataStart + (plan.header.entries[column]?.begin ?? 0);
        const row = elementCount(shape);
        const bytes = row * elementBytes(dtype);
        copyRow(chunk, entries[position] ?? null, sample - chunk.begin, row, dtype, body.subarray(start + index * bytes, start + (index + 1) * bytes)); // prettier-ignore
      }
    }
    return body;
  }

  #column(name: string): Column[] {
    const entries = this.#chunks.map(({ header }) => entryOf(header, name));
    const found = entries.filter((entry) => entry !== null);
    const [first] = found;
    if (first === undefined) return [];
    const [, ...shape] = first.shape;
    // A sample that is not weighed has the weight 1.
    const dtype = found.length < entries.length ? 'F64' : commonDtype(found.map((entry) => entry.dtype));
    return [{ name, dtype, shape, entries }];
  }

  /** The last chunk that begins before a sample, or with it. */
  #chunkOf(sample: number): number {
    let [low, high] = [0, this.#chunks.length];
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      if ((this.#chunks[middle]?.begin ?? Infinity) <= sample) low = middle;
      else high = middle;
    }
    return low;
  }
}

function entryOf({ entries }: SafetensorsHeader, name: string): TensorEntry | null {
  return entries.find((entry) => entry.name === name) ?? null;
}

/** Copies one sample's values as they are, or as what they are read as. @param elements of a row @param target aligned to its type */
function copyRow(
  { body, header }: LoadedChunk,
  entry: TensorEntry | null,
  row: number,
  elements: number,
  dtype: Dtype,
  target: Uint8Array<ArrayBuffer>,
): void {
  const values = (): Float32Array | Float64Array =>
    dtype === 'F64'
      ? new Float64Array(target.buffer, target.byteOffset, elements)
      : new Float32Array(target.buffer, target.byteOffset, elements);
  if (entry === null) {
    values().fill(1);
    return;
  }
  const bytes = elements * elementBytes(entry.dtype);
  const begin = entry.begin + row * bytes;
  if (entry.dtype === dtype) {
    target.set(body.subarray(header.dataStart + begin, header.dataStart + begin + bytes));
    return;
  }
  values().set(readValues(body, header, { ...entry, begin, end: begin + bytes }));
}
