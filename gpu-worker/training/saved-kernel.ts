/**
 * The state of a session in `kernel` mode as named tensors and numbers, and back, bit for bit.
 *
 * `optimizer.<layer>.<field>`: the factors' averages and inverses of a layer that has them; `optimizer.<layer>.<group>.<field>` of a
 * convolution with groups.
 */
import { at } from '../../shared/at.ts';
import type { SavedState } from '../../shared/checkpoint.ts';
import type { KernelLayer } from '../../shared/kernel-definition.ts';
import type { NamedTensor } from '../../shared/safetensors.ts';
import type { KernelState, SharedBlock, SharedFactors } from '../optimizer/kernel-step.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { readScalar } from '../tensor/scalar.ts';
import { contradiction, PREDICTED_CHANGE, type SavedTensors } from './saved-tensors.ts';
import type { SavedTraining } from './trainer.ts';

type SavedKernel = Extract<SavedState, { mode: 'kernel' }>;
type FactorField = 'input_factor' | 'output_factor' | 'input_inverse' | 'output_inverse';

function factorTensor({ name, factors }: KernelLayer, block: number, field: FactorField): string {
  return `optimizer.${name}.${factors === null || factors.groups === 1 ? '' : `${String(block)}.`}${field}`;
}

export function saveKernel(engine: Engine, layers: readonly KernelLayer[], state: KernelState): SavedTraining {
  const { step, leverage, learningRate, predictedChange, factors, statistics, isRefreshDue } = state;
  const tensors: NamedTensor[] = [];
  const save = (name: string, tensor: Tensor): void => {
    tensors.push({ name, shape: tensor.shape, values: engine.read(tensor) });
  };
  for (const [t, layer] of layers.entries()) {
    const kept = factors[t] ?? null;
    if (kept === null) continue;
    for (const [block, { inputFactor, outputFactor, inverses }] of kept.blocks.entries()) {
      save(factorTensor(layer, block, 'input_factor'), inputFactor);
      save(factorTensor(layer, block, 'output_factor'), outputFactor);
      if (inverses === null) continue;
      save(factorTensor(layer, block, 'input_inverse'), inverses.input);
      save(factorTensor(layer, block, 'output_inverse'), inverses.output);
    }
  }
  if (predictedChange !== null) save(PREDICTED_CHANGE, predictedChange);
  return {
    step,
    state: {
      mode: 'kernel',
      factors: factors.map((kept) => (kept === null ? null : { version: kept.version, hasInverses: kept.version > 0 })),
      statistics,
      isRefreshDue,
      hasPredictedChange: predictedChange !== null,
      leverage: leverage === null ? null : readScalar(engine, leverage),
      learningRate,
      failedFactorizations: state.failedFactorizations,
    },
    tensors,
  };
}

/** @throws ProblemError `invalid_checkpoint` if the state is of other layers; `missing_tensor`, `shape_mismatch` */
export function restoreKernel(
  layers: readonly KernelLayer[],
  step: number,
  { factors, hasPredictedChange, statistics, isRefreshDue, leverage, learningRate, failedFactorizations }: SavedKernel,
  tensors: SavedTensors,
): KernelState {
  if (factors.length !== layers.length) {
    throw contradiction(`factors has ${String(factors.length)} entries for ${String(layers.length)} layers`);
  }
  return {
    step,
    leverage: tensors.scalar(leverage),
    learningRate,
    predictedChange: hasPredictedChange ? tensors.take(PREDICTED_CHANGE, []) : null,
    factors: layers.map((layer, t): SharedFactors | null => {
      const saved = at(factors, t);
      if (saved === null) return null;
      if (layer.factors === null) throw contradiction(`layer ${layer.name} has no factors`);
      const { inputs: n, outputs: c, groups } = layer.factors;
      const blocks = Array.from({ length: groups }, (_, block): SharedBlock => {
        const take = (field: FactorField, size: number): Tensor =>
          tensors.take(factorTensor(layer, block, field), [size, size]);
        return {
          inputFactor: take('input_factor', n),
          outputFactor: take('output_factor', c),
          inverses: saved.hasInverses ? { input: take('input_inverse', n), output: take('output_inverse', c) } : null,
        };
      });
      return { blocks, version: saved.version };
    }),
    statistics,
    isRefreshDue,
    failedFactorizations,
  };
}
