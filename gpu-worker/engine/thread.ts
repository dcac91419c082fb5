/** The compute thread: one device, one request at a time. Started by compute-thread.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { loadBestEngine, loadEngine } from '../tensor/index.ts';
import { solveKernels } from '../training/kernel-solve.ts';
import type { Answer } from '../training/trainer.ts';
import { Trainers } from '../training/trainers.ts';
import { toFailure } from '../thread/failure.ts';
import type { ThreadRequest, ThreadResponse } from '../thread/thread-calls.ts';
import type { Results, ThreadOptions, ThreadReady, Work, WorkKind } from './messages.ts';

type Response = ThreadResponse<ThreadReady, Results[WorkKind]>;

if (parentPort === null) throw new Error('this file runs as a worker thread');
const port = parentPort;
const { engine: wanted } = workerData as ThreadOptions;
const engine = wanted === null ? await loadBestEngine(warn) : await loadEngine(wanted, warn);
const trainers = new Trainers(engine);

function warn(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** A result, and the buffers that it moves to the other thread instead of copying them. */
interface Performed {
  readonly result: Results[WorkKind];
  readonly moved: ArrayBuffer[];
}

function perform(work: Work): Performed {
  switch (work.kind) {
    case 'open':
      trainers.open(work.id, work.definition);
      return { result: null, moved: [] };
    case 'restore':
      return { result: trainers.restore(work.id, work.file), moved: [] };
    case 'redefine':
      trainers.redefine(work.id, work.definition);
      return { result: null, moved: [] };
    case 'save': {
      const result = trainers.save(work.id, work.origin);
      return { result, moved: [result.bytes.buffer] };
    }
    case 'inspect':
      return { result: { summary: trainers.inspect(work.file), bytes: work.file }, moved: [work.file.buffer] };
    case 'step': {
      const { body } = work;
      const outcome = trainers.step(work.id, body);
      return { result: { ...outcome, body }, moved: [outcome.answer.body.buffer, body.buffer] };
    }
    case 'weights':
      return moving(trainers.weights(work.id));
    case 'predict':
      return moving(trainers.predict(work.id, work.body));
    case 'checkChunk':
      trainers.checkChunk(work.id, work.body);
      return { result: work.body, moved: [work.body.buffer] };
    case 'solve':
      return moving(solveKernels(engine, work.body, work.options));
    case 'close':
      trainers.close(work.id);
      return { result: null, moved: [] };
  }
}

function moving(answer: Answer): Performed {
  return { result: answer, moved: [answer.body.buffer] };
}

port.on('message', ({ call, work }: ThreadRequest<Work>) => {
  let response: Response;
  let moved: ArrayBuffer[] = [];
  try {
    const performed = perform(work);
    response = { kind: 'result', call, result: performed.result };
    moved = performed.moved;
  } catch (error) {
    response = { kind: 'failure', call, failure: toFailure(error) };
  }
  port.postMessage(response, moved);
  // The answer is on its way; a failure from here on is a defect, which ends the thread.
  if (work.kind === 'step') trainers.settle(work.id);
});
port.postMessage({ kind: 'ready', ready: { engine: engine.name } } satisfies Response);
