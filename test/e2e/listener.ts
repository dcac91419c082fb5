/** Server-sent events as a test reads them. */
import { expect } from 'vitest';

/** A stream of events that is read when the test asks for it. */
export class Listener {
  readonly #reader: ReadableStreamDefaultReader<string>;
  #text = '';

  constructor(answer: Response) {
    this.#reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  }

  static async open(
    url: string,
    path: string,
    headers: Record<string, string> = {},
    init: RequestInit = {},
  ): Promise<Listener> {
    const answer = await fetch(new URL(path, url), { ...init, headers });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe('text/event-stream');
    return new Listener(answer);
  }

  /** The next block, comments included; null at the end. */
  async block(): Promise<string | null> {
    for (let end = this.#text.indexOf('\n\n'); ; end = this.#text.indexOf('\n\n')) {
      if (end >= 0) {
        const block = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 2);
        return block;
      }
      const { done, value } = await this.#reader.read();
      if (done) return null;
      this.#text += value;
    }
  }

  /** The next event, comments left out. */
  async event(): Promise<string | null> {
    for (;;) {
      const block = await this.block();
      if (block?.startsWith(':') !== true) return block;
    }
  }

  /** The next event's name and document; null at the end. */
  async parsed(): Promise<{ readonly event: string; readonly data: unknown } | null> {
    const event = await this.event();
    if (event === null) return null;
    const [, name = '', data = ''] = /event: (.*)\ndata: (.*)$/.exec(event) ?? [];
    return { event: name, data: JSON.parse(data) };
  }

  close(): Promise<void> {
    return this.#reader.cancel();
  }
}
