/** The compute thread: one device, one request at a time. Started by compute-thread.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { loadBestEngine, loadEngine } from '../tensor/index.ts';
import { solveKernels } from '../training/kernel-solve.ts';
import { Trainers } from '../training/trainers.ts';
import { toFailure, type Request, type Response, type Results, type ThreadOptions, type WorkKind } from './messages.ts';

if (parentPort === null) throw new Error('this file runs as a worker thread');
const port = parentPort;
const { engine: wanted } = workerData as ThreadOptions;
const engine = wanted === null ? await loadBestEngine(warn) : await loadEngine(wanted, warn);
const trainers = new Trainers(engine);

function warn(text: string): void {
  process.stderr.write(`${text}\n`);
}

function perform(work: Request['work']): Results[WorkKind] {
  switch (work.kind) {
    case 'open':
      trainers.open(work.id, work.definition);
      return null;
    case 'step':
      return trainers.step(work.id, work.body);
    case 'weights':
      return trainers.weights(work.id);
    case 'predict':
      return trainers.predict(work.id, work.body);
    case 'solve':
      return solveKernels(engine, work.body, work.options);
    case 'close':
      trainers.close(work.id);
      return null;
  }
}

/** The buffers that a result moves to the other thread instead of copying them. */
function transferred(result: Results[WorkKind]): ArrayBuffer[] {
  if (result === null) return [];
  return ['answer' in result ? result.answer.body.buffer : result.body.buffer];
}

port.on('message', ({ call, work }: Request) => {
  let response: Response;
  let moved: ArrayBuffer[] = [];
  try {
    const result = perform(work);
    response = { kind: 'result', call, result };
    moved = transferred(result);
  } catch (error) {
    response = { kind: 'failure', call, failure: toFailure(error) };
  }
  port.postMessage(response, moved);
  // The answer is on its way; a failure from here on is a defect, which ends the thread.
  if (work.kind === 'step') trainers.settle(work.id);
});
port.postMessage({ kind: 'ready', engine: engine.name } satisfies Response);
