/**
 * A body of tensors on its way through the edge: the header is checked from the first bytes, the rest is streamed. Of a body that it
 * forwards the edge never holds more than the header and one chunk.
 */
import { ProblemError } from '../../shared/errors.ts';
import {
  LENGTH_PREFIX_BYTES,
  parseHeader,
  readHeaderLength,
  type SafetensorsHeader,
} from '../../shared/safetensors.ts';
import type { Platform } from '../environment.ts';

/**
 * Bytes forwarded at a time, at most. On workerd more gains nothing, and a quarter of it takes a tenth longer. workerd’s own `pipeTo`
 * takes a tenth less, but when it fails it does not tell whether the client or the worker has gone, and what is left of the body is lost.
 */
const COPY_BYTES = 524_288;
/** Bytes that are read at first, at most, as far as they have come: the header, and of a small body everything. */
const FIRST_BYTES = 65_536;
/** Whether this platform's bodies can be read into a given buffer; Node's cannot. Found out by trying, which Node makes expensive. */
let readsIntoBuffers = true;

/** A body as it is sent on, and its announced length. */
export interface SizedBody {
  /** The bytes themselves where all of them had arrived with the first. */
  readonly content: ReadableStream<Uint8Array> | Uint8Array<ArrayBuffer>;
  /** Bytes. */
  readonly length: number;
  /** Whether the client has stopped sending before that. */
  readonly isTruncated: () => boolean;
}

/** A body of which the first bytes are read. */
export class StreamedBody {
  readonly #stream: ReadableStream<Uint8Array>;
  readonly #length: number;
  readonly #pipe: Platform['pipe'];
  #read: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #isTruncated = false;

  /** @param length the announced length of the whole body */
  constructor(stream: ReadableStream<Uint8Array> | null, length: number, { pipe }: Pick<Platform, 'pipe'>) {
    this.#stream = stream ?? emptyStream();
    this.#length = length;
    this.#pipe = pipe;
  }

  /** One that has been read already. */
  static of(bytes: Uint8Array<ArrayBuffer>, platform: Pick<Platform, 'pipe'>): StreamedBody {
    const body = new StreamedBody(null, bytes.length, platform);
    body.#read = bytes;
    return body;
  }

  /** Reads the safetensors header and checks it against the announced length. The codes are those of `parseHeader`. */
  async readHeader(): Promise<SafetensorsHeader> {
    await this.#readUntil(Math.min(LENGTH_PREFIX_BYTES, this.#length));
    const end = LENGTH_PREFIX_BYTES + readHeaderLength(this.#read, this.#length);
    await this.#readUntil(end);
    return parseHeader(this.#read.subarray(LENGTH_PREFIX_BYTES, end), this.#length);
  }

  async #readUntil(count: number): Promise<void> {
    let available = this.#read.length;
    if (available >= count) return;
    const chunks: Uint8Array[] = [this.#read];
    const reader = chunkReader(this.#stream, Math.min(FIRST_BYTES, this.#length - available));
    try {
      while (available < count) {
        const chunk = await orEnd(reader.read());
        if (chunk === null) throw truncated(available, this.#length);
        chunks.push(chunk.slice());
        available += chunk.length;
      }
      this.#read = concatenate(chunks, available);
    } finally {
      reader.releaseLock();
    }
  }

  /** The whole body, for one that is small. @throws ProblemError `truncated_body` if the client stops sending */
  async read(): Promise<Uint8Array> {
    await this.#readUntil(this.#length);
    return this.#read;
  }

  /**
   * Hands the whole body, first bytes included, to a consumer.
   *
   * @param consume gets exactly the announced length
   * @throws ProblemError `truncated_body` if the client stops sending; else what `consume` throws
   */
  async forward<Result>(consume: (body: SizedBody) => Promise<Result>): Promise<Result> {
    const length = this.#length;
    // From one stream into another takes longer than all else that is done with a small body here.
    if (this.#read.length === length) return consume({ content: this.#read, length, isTruncated: () => false });
    const { readable, writable } = this.#pipe(length);
    const writer = writable.getWriter();
    const consuming = consume({ content: readable, length, isTruncated: () => this.#isTruncated });
    // Node's fetch that finds no connection leaves the stream as it is: what is to be written would wait for ever.
    const stopped = consuming.then(
      () => undefined,
      (error: unknown) => writer.abort(error),
    );
    const [consumed, sent] = await Promise.allSettled([consuming, this.#sendTo(writer), stopped]);
    if (consumed.status === 'fulfilled') return consumed.value;
    // The consumer fails when the client stops sending, but also by itself: what the client did decides.
    if (sent.status === 'rejected' && sent.reason instanceof ProblemError) throw sent.reason;
    throw consumed.reason;
  }

  /** Copies the body. @throws ProblemError `truncated_body` if the client stops sending */
  async #sendTo(writer: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
    let sent = this.#read.length;
    const reader = chunkReader(this.#stream, this.#length - sent);
    try {
      await writer.write(this.#read);
      while (sent < this.#length) {
        const chunk = await orEnd(reader.read());
        if (chunk === null) {
          this.#isTruncated = true;
          throw truncated(sent, this.#length);
        }
        await writer.write(chunk);
        sent += chunk.length;
      }
      await writer.close();
    } catch (error) {
      await writer.abort(error);
      throw error;
    } finally {
      reader.releaseLock();
    }
  }
}

/**
 * Reads large chunks into one buffer, where the stream can: a chunk holds until the next is read. Node's streams of requests cannot.
 *
 * @param rest bytes to come
 */
function chunkReader(
  stream: ReadableStream<Uint8Array>,
  rest: number,
): Pick<ReadableStreamDefaultReader<Uint8Array>, 'read' | 'releaseLock'> {
  if (!readsIntoBuffers) return stream.getReader();
  try {
    const reader = stream.getReader({ mode: 'byob' });
    let buffer = new ArrayBuffer(Math.min(COPY_BYTES, rest));
    return {
      read: async () => {
        const chunk = await reader.read(new Uint8Array(buffer));
        // The one that was given is detached.
        if (chunk.value !== undefined) buffer = chunk.value.buffer;
        return chunk;
      },
      releaseLock: () => {
        reader.releaseLock();
      },
    };
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    readsIntoBuffers = false;
    return stream.getReader();
  }
}

/** The next bytes, or null at the end; a connection that breaks has ended, too. */
async function orEnd(reading: ReturnType<ReadableStreamDefaultReader<Uint8Array>['read']>): Promise<Uint8Array | null> {
  try {
    const { done, value } = await reading;
    return done ? null : value;
  } catch {
    return null;
  }
}

function truncated(received: number, announced: number): ProblemError {
  return new ProblemError('truncated_body', {
    detail: `The body ended after ${String(received)} of ${String(announced)} bytes.`,
    remedy: 'Send the same request again.',
  });
}

function emptyStream(): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.close();
    },
  });
}

export function concatenate(chunks: readonly Uint8Array[], length: number): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(length);
  let position = 0;
  for (const chunk of chunks) {
    joined.set(chunk, position);
    position += chunk.length;
  }
  return joined;
}
