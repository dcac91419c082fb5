/** The trainer of a session: one place chooses among the modes. */
import type { SessionDefinition } from '../../shared/session.ts';
import { compile } from '../model/program.ts';
import type { Engine } from '../tensor/engine.ts';
import type { OpenedCheckpoint } from './checkpoint.ts';
import { hostedTrainer } from './hosted-trainer.ts';
import { kernelTrainer } from './kernel-trainer.ts';
import { layersTrainer } from './layers-trainer.ts';
import { restoreHosted } from './saved-hosted.ts';
import { restoreKernel } from './saved-kernel.ts';
import { restoreOptimizer } from './saved-optimizer.ts';
import { contradiction, SavedTensors } from './saved-tensors.ts';
import type { Trainer } from './trainer.ts';

export function createTrainer(engine: Engine, definition: SessionDefinition): Trainer {
  switch (definition.mode) {
    case 'layers':
      return layersTrainer(engine, definition);
    case 'kernel':
      return kernelTrainer(engine, definition);
    case 'hosted':
      return hostedTrainer(engine, definition);
  }
}

/**
 * A trainer that goes on where a checkpoint was made.
 *
 * @throws ProblemError as `restoreOptimizer`; `invalid_checkpoint` for the state of another mode, `unknown_tensor`
 */
export function restoreTrainer(engine: Engine, { manifest, tensors }: OpenedCheckpoint): Trainer {
  const { definition, step, state } = manifest;
  const restore = <State>(read: (saved: SavedTensors) => State): State =>
    engine.scope(() => {
      const saved = new SavedTensors(engine, tensors);
      const restored = read(saved);
      saved.assertAllTaken();
      return restored;
    });
  if (definition.mode === 'layers' && state.mode === 'layers') {
    const { layers } = definition;
    return layersTrainer(
      engine,
      definition,
      restore((saved) => restoreOptimizer(layers, step, state.optimizer, saved)),
    );
  }
  if (definition.mode === 'kernel' && state.mode === 'kernel') {
    return kernelTrainer(
      engine,
      definition,
      restore((saved) => restoreKernel(definition.layers, step, state, saved)),
    );
  }
  if (definition.mode === 'hosted' && state.mode === 'hosted') {
    const program = compile(definition.model);
    return hostedTrainer(
      engine,
      definition,
      restore((saved) => restoreHosted(program, step, state, saved)),
    );
  }
  throw contradiction(`its mode is "${definition.mode}", that of the state "${state.mode}"`);
}
