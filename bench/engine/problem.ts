/** What every contender trains: a network on random batches of one size, and what a step of that costs in operations. */
import { LIMITS } from '../../shared/limits.ts';
import { elementCount } from '../../shared/shape.ts';
import { layerSizes, passCost, PREDICTION_PASSES } from '../../shared/cost.ts';
import { hostedDefinitionSchema, type HostedDefinition } from '../../shared/hosted-definition.ts';
import { modelStages, type ModelInput } from '../../shared/model.ts';
import { seededRandom } from '../../shared/random.ts';

/** Steps between two factorisations of the Kronecker factors. */
export const REFRESH_EVERY = 10;
/** At 0.1 a peer diverges on the CNN's random labels, and a loss that is no number ends its answer. */
export const LEARNING_RATE = 1e-4;

export interface Batch {
  /** [B, …], row-major. */
  readonly inputs: Float32Array;
  /** [B]. */
  readonly labels: Float32Array;
}

export interface Problem {
  readonly name: string;
  readonly model: ModelInput;
  readonly batch: number;
  /** The same ones in turn. */
  readonly batches: readonly Batch[];
}

/** Random samples: what a step costs does not depend on them. */
export function problem(name: string, model: ModelInput, batch: number): Problem {
  const random = seededRandom(1);
  const size = elementCount(model.input);
  const batches = Array.from({ length: REFRESH_EVERY }, () => ({
    inputs: Float32Array.from({ length: batch * size }, () => Math.max(0, 2 * random() - 1)),
    labels: Float32Array.from({ length: batch }, () => Math.floor(10 * random())),
  }));
  return { name: `${name}, B = ${String(batch)}`, model, batch, batches };
}

/**
 * How the service takes the step. `default`: metric kronecker, coupling feedback, the defaults but for η. `factorised`: the same, by a
 * Cholesky factorisation whatever the batch, where the default solves large systems by conjugate gradients. `fast`: each lever that
 * makes a step cheaper: samples are not coupled, there is no second pass, every fifth batch enters the factors, and the first
 * input factor, if it is large, is that of the first batches.
 */
export type Variant = 'default' | 'factorised' | 'fast';

const FROZEN_RANK = 128;

export function hostedDefinition(model: ModelInput, variant: Variant = 'default'): HostedDefinition {
  const loss = { kind: 'softmax-cross-entropy' };
  return hostedDefinitionSchema.parse({ mode: 'hosted', model, loss, optimizer: optimizer(model, variant) });
}

function optimizer({ input }: ModelInput, variant: Variant): object {
  const learningRate = { kind: 'constant', value: LEARNING_RATE };
  const metric = { kind: 'kronecker', refreshEvery: REFRESH_EVERY };
  switch (variant) {
    case 'default':
      return { learningRate, metric };
    case 'factorised':
      return { learningRate, metric, solver: { choleskyRows: LIMITS.batch } };
    case 'fast': {
      const isLarge = input.length === 1 && elementCount(input) > FROZEN_RANK;
      const frozen = isLarge ? { firstInputFactor: { kind: 'frozen', rank: FROZEN_RANK } } : {};
      const sparse = { ...metric, statisticsEvery: 5, ...frozen };
      return { learningRate, metric: sparse, coupling: 'value', batchCoupling: 'diagonal' };
    }
  }
}

/**
 * Floating-point operations of a step of a dense network, products of matrices and factorisations only; null for another network,
 * whose tangent kernels are made in one of several ways. Two forward passes and one backward pass, and for each layer with n
 * inputs (and the bias) and c outputs:
 *
 *     factors XᵀX, GᵀG        B(n² + c²)
 *     X T_a, G T_g            B(n² + c²)
 *     Gram matrices           B²(n + c)
 *     Cholesky factor of S    B³/3
 *     (X T_a)ᵀ diag(κ) G T_g  2Bnc
 *     T_a … T_gᵀ              n² min(B, c) + c² min(B, n)
 *
 * and, every `REFRESH_EVERY` steps, L and L⁻¹ of both factors, ⅔(n³ + c³). Of symmetric products and those with a triangular matrix
 * one half counts, whether or not the engine makes use of that; conjugate gradients count as the factorisation that they replace.
 */
export function operations({ model, batch: B }: Problem): { readonly step: number; readonly refresh: number } | null {
  const definition = hostedDefinition(model);
  const layers = modelStages(definition.model).map(({ layer }) => layer);
  if (layers.some(({ kind }) => kind !== 'dense')) return null;
  let step = 3 * 2 * passCost(definition.model, PREDICTION_PASSES, B).forwardWork;
  let refresh = 0;
  for (const { inputs: n, outputs: c } of layers.map(layerSizes)) {
    step += 2 * B * (n * n + c * c) + B * B * (n + c) + B ** 3 / 3 + 2 * B * n * c;
    step += n * n * Math.min(B, c) + c * c * Math.min(B, n);
    refresh += (2 / 3) * (n ** 3 + c ** 3);
  }
  return { step, refresh };
}
