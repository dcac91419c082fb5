/**
 * A step's body on its way through the edge: the header is checked from the first bytes, the rest is streamed. The edge never
 * holds more than the header and one chunk.
 */
import { ProblemError } from '../../shared/errors.ts';
import {
  LENGTH_PREFIX_BYTES,
  parseHeader,
  readHeaderLength,
  type SafetensorsHeader,
} from '../../shared/safetensors.ts';

/** A body of which the first bytes are read. */
export class StepBody {
  readonly #stream: ReadableStream<Uint8Array>;
  readonly #length: number;
  #read: Uint8Array = new Uint8Array(0);

  /** @param length the announced length of the whole body */
  constructor(stream: ReadableStream<Uint8Array> | null, length: number) {
    this.#stream = stream ?? emptyStream();
    this.#length = length;
  }

  /** Reads the safetensors header and checks it against the announced length. The codes are those of `parseHeader`. */
  async readHeader(): Promise<SafetensorsHeader> {
    await this.#readUntil(Math.min(LENGTH_PREFIX_BYTES, this.#length));
    const end = LENGTH_PREFIX_BYTES + readHeaderLength(this.#read, this.#length);
    await this.#readUntil(end);
    return parseHeader(this.#read.subarray(LENGTH_PREFIX_BYTES, end), this.#length);
  }

  async #readUntil(count: number): Promise<void> {
    const reader = this.#stream.getReader();
    const chunks = [this.#read];
    let available = this.#read.length;
    while (available < count) {
      const { done, value } = await reader.read();
      if (done) {
        throw new ProblemError('truncated_body', {
          detail: `The body ended after ${String(available)} of ${String(this.#length)} bytes.`,
          remedy: 'Send the same step again.',
        });
      }
      chunks.push(value);
      available += value.length;
    }
    reader.releaseLock();
    this.#read = concatenate(chunks, available);
  }

  /**
   * Hands the whole body, first bytes included, to a consumer.
   *
   * @param consume gets a stream of exactly the announced length
   * @throws ProblemError `truncated_body` if the client stops sending; else what `consume` throws
   */
  async forward<Result>(consume: (stream: ReadableStream<Uint8Array>) => Promise<Result>): Promise<Result> {
    const { readable, writable } = new FixedLengthStream(this.#length);
    const [consumed, sent] = await Promise.allSettled([consume(readable), this.#sendTo(writable)]);
    if (consumed.status === 'fulfilled') return consumed.value;
    if (sent.status === 'rejected') {
      throw new ProblemError(
        'truncated_body',
        { detail: 'The body ended before its announced length.', remedy: 'Send the same step again.' },
        { cause: sent.reason },
      );
    }
    throw consumed.reason;
  }

  async #sendTo(writable: WritableStream<Uint8Array>): Promise<void> {
    const writer = writable.getWriter();
    await writer.write(this.#read);
    writer.releaseLock();
    await this.#stream.pipeTo(writable);
  }
}

function emptyStream(): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.close();
    },
  });
}

function concatenate(chunks: readonly Uint8Array[], length: number): Uint8Array {
  const joined = new Uint8Array(length);
  let position = 0;
  for (const chunk of chunks) {
    joined.set(chunk, position);
    position += chunk.length;
  }
  return joined;
}
