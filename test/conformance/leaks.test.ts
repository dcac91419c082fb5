/** A session of some hundred steps holds as many tensors as one of ten, and none when it is closed: on every engine, in both modes. */
import { expect, it } from 'vitest';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { hostedTrainer } from '../../gpu-worker/training/hosted-trainer.ts';
import { layersTrainer } from '../../gpu-worker/training/layers-trainer.ts';
import type { Trainer } from '../../gpu-worker/training/trainer.ts';
import { hostedDefinitionSchema } from '../../shared/hosted-definition.ts';
import { layersDefinitionSchema } from '../../shared/layers-definition.ts';
import { encode } from '../../shared/safetensors.ts';
import { LAYERS, stepBody } from '../e2e/support.ts';

const STEPS = 200;

const batch = encode([
  { name: 'x', shape: [4, 3], values: Float32Array.from({ length: 12 }, (_, i) => Math.sin(i)) },
  { name: 'y', shape: [4], values: Float32Array.of(0, 1, 1, 0) },
]);

it.each(presentEngines())('%s', async (name) => {
  const engine = await loadEngine(name);
  const before = engine.liveTensors;
  const hosted = hostedDefinitionSchema.parse({
    mode: 'hosted',
    model: {
      input: [3],
      layers: [
        { kind: 'dense', name: 'a', outputs: 4 },
        { kind: 'batch-norm', name: 'n' },
        { kind: 'tanh' },
        { kind: 'dense', name: 'b', outputs: 2 },
      ],
    },
    loss: { kind: 'softmax-cross-entropy' },
    optimizer: { metric: { kind: 'kronecker', refreshLag: 2 } },
  });
  const layers = layersDefinitionSchema.parse({ layers: LAYERS, optimizer: { coupling: 'value', momentum: 0.5 } });
  const cases: readonly (readonly [Trainer, (step: number) => Uint8Array])[] = [
    [hostedTrainer(engine, hosted), () => batch],
    [layersTrainer(engine, layers), (step) => stepBody(step)],
  ];
  for (const [trainer, body] of cases) {
    let early = 0;
    for (let step = 0; step < STEPS; step++) {
      trainer.step(body(step));
      trainer.settle();
      if (step === 9) early = engine.liveTensors;
    }
    expect(engine.liveTensors).toBe(early);
  }
  for (const [trainer] of cases) trainer.close();
  expect(engine.liveTensors).toBe(before);
});
