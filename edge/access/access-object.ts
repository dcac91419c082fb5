/** The Durable Object that holds keys, limits and usage: one for all isolates. */
import { DurableObject } from 'cloudflare:workers';
import { durableObjectSql } from '../state/durable-object-sql.ts';
import { directoryThrough, LocalAccessDirectory, performOn, type AccessDirectory } from './access-directory.ts';

export class AccessObject extends DurableObject {
  readonly #directory = new LocalAccessDirectory(durableObjectSql(this.ctx.storage));

  /** Performs a method of the directory; arguments and result are plain values, as JSON. */
  perform(method: keyof LocalAccessDirectory, parameters: string): string {
    const result = performOn(this.#directory, method, JSON.parse(parameters) as unknown[]);
    return JSON.stringify(result ?? null);
  }
}

/** The directory in the Durable Object of a binding. */
export function durableDirectory(namespace: DurableObjectNamespace<AccessObject>): AccessDirectory {
  return directoryThrough(async (method, parameters): Promise<unknown> => {
    const result = await namespace.getByName('access').perform(method, JSON.stringify(parameters));
    return JSON.parse(result);
  });
}
