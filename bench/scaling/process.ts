/** The process that is measured: it does one request at a time and then tells. Started by measured-process.ts. */
import { setTimeout } from 'node:timers/promises';
import { problem } from '../engine/problem.ts';
import { engineContender, type Runner } from '../engine/contender.ts';
import { perceptron } from '../peers/networks.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { hostedTrainer } from '../../gpu-worker/training/hosted-trainer.ts';
import { layersTrainer } from '../../gpu-worker/training/layers-trainer.ts';
import type { Trainer } from '../../gpu-worker/training/trainer.ts';
import type { Reply, Request } from './messages.ts';
import { randomStepBody } from './step-body.ts';

const SWEEP_MILLISECONDS = 50;

let engine: Engine | null = null;
let runner: Runner | null = null;
/** Kept, so that what they hold is. */
const sessions: Trainer[] = [];

function loaded(): Engine {
  if (engine === null) throw new Error('no engine is loaded');
  return engine;
}

async function perform(request: Request): Promise<readonly number[]> {
  switch (request.kind) {
    case 'load':
      engine = await loadEngine(request.engine);
      // What a process takes once, however small its steps.
      await (await engineContender(engine.name).prepare(problem('', perceptron([4, 10]), 4))).round();
      return [];
    case 'prepare': {
      const task = problem('', request.model, request.batch);
      // One batch, so that a round is one step.
      const oneBatch = { ...task, batches: task.batches.slice(0, 1) };
      runner = await engineContender(loaded().name).prepare(oneBatch);
      return [];
    }
    case 'steps': {
      if (runner === null) throw new Error('steps of no problem');
      const milliseconds: number[] = [];
      for (let step = 0; step < request.count; step++) milliseconds.push(...(await runner.round()));
      return milliseconds;
    }
    case 'session': {
      const { definition, sizes, steps } = request;
      const trainer =
        definition.mode === 'hosted' ? hostedTrainer(loaded(), definition) : layersTrainer(loaded(), definition);
      sessions.push(trainer);
      for (let step = 0; step < steps; step++) trainer.step(randomStepBody(definition, sizes, step));
      return [];
    }
  }
}

process.on('message', (request: Request) => {
  void perform(request).then(async (milliseconds) => {
    // Garbage is not what is measured; the memory of arrays is freed a little after they are collected.
    globalThis.gc?.();
    await setTimeout(SWEEP_MILLISECONDS);
    process.send?.({ milliseconds } satisfies Reply);
  });
});
