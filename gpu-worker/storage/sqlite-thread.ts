/** The storage thread: it waits for the disk, so that nobody else has to. Started by sqlite.ts. */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { ProblemError } from '../../shared/errors.ts';
import { toFailure } from '../thread/failure.ts';
import type { ThreadRequest, ThreadResponse } from '../thread/thread-calls.ts';
import type { StorageResults, StorageWork, StorageWorkKind } from './messages.ts';
import { SqliteDatabase, type SqliteOptions } from './sqlite-database.ts';

type StorageRequest = ThreadRequest<StorageWork>;
type StorageResponse = ThreadResponse<null, StorageResults[StorageWorkKind]>;
type WriteRequest = ThreadRequest<Extract<StorageWork, { kind: 'write' }>>;

if (parentPort === null) throw new Error('this file runs as a worker thread');
const port = parentPort;
const database = new SqliteDatabase(workerData as SqliteOptions);

function answer(call: number, perform: () => StorageResults[StorageWorkKind]): void {
  let response: StorageResponse;
  let moved: ArrayBuffer[] = [];
  try {
    const result = perform();
    response = { kind: 'result', call, result };
    if (result instanceof Uint8Array) moved = [result.buffer];
  } catch (error) {
    response = { kind: 'failure', call, failure: toFailure(error) };
  }
  port.postMessage(response, moved);
}

/** Writes that have come together are one transaction: one commit serves them all. If it fails, each tries for itself. */
function writeTogether(requests: readonly WriteRequest[]): void {
  if (requests.length > 1) {
    try {
      database.write(requests.map(({ work }) => work));
      for (const { call } of requests) answer(call, () => null);
      return;
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
    }
  }
  for (const { call, work } of requests) {
    answer(call, () => {
      database.write([work]);
      return null;
    });
  }
}

function perform(work: Exclude<StorageWork, { kind: 'write' }>): StorageResults[StorageWorkKind] {
  switch (work.kind) {
    case 'claim':
      database.claim(work.fence);
      return null;
    case 'check':
      database.check(work.fence);
      return null;
    case 'end':
      database.end(work.fence, work.prefixes);
      return null;
    case 'identity':
      return database.identity();
    case 'read':
      return database.read(work.key);
    case 'list':
      return database.list(work.prefix);
    case 'close':
      database.close();
      return null;
  }
}

/** This request and those that have come since, in their order. */
function* waiting(first: StorageRequest): Generator<StorageRequest> {
  yield first;
  for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) {
    yield next.message as StorageRequest;
  }
}

port.on('message', (first: StorageRequest) => {
  let writes: WriteRequest[] = [];
  for (const request of waiting(first)) {
    const { call, work } = request;
    if (work.kind === 'write') {
      writes.push({ call, work });
      continue;
    }
    writeTogether(writes);
    writes = [];
    answer(call, () => perform(work));
    // With it the thread ends.
    if (work.kind === 'close') port.close();
  }
  writeTogether(writes);
});
port.postMessage({ kind: 'ready', ready: null } satisfies StorageResponse);
