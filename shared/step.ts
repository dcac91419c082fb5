/**
 * The tensors of a step in `layers` mode: their names, shapes, and the check of a header against a session's definition, which
 * both the edge (before it forwards a body) and the worker (before it computes) apply.
 */
import { batchFactorBytes, batchWork } from './cost.ts';
import { LIMITS } from './limits.ts';
import { ProblemError } from './errors.ts';
import { formatShape, type Dtype, type SafetensorsHeader, type TensorEntry } from './safetensors.ts';
import type { Layer } from './layer.ts';

/** Names of the tensors on the wire. */
export const TENSOR = {
  /** Request: per-sample losses φ_i, [B]. */
  losses: 'losses',
  /** Request: input activations of a dense layer, [B, n]. */
  input: (layer: string) => `layers.${layer}.input`,
  /** Request: per-sample gradients of each sample's own loss in the pre-activations, [B, c]. */
  outputGradient: (layer: string) => `layers.${layer}.output_grad`,
  /** Reply: 1/h_i, the target of the coefficients' equation, [B]. */
  target: 'target',
  /** Reply: metric-weighted inputs ã, [B, n (+ 1, bias last)]. */
  policyInput: (layer: string) => `layers.${layer}.policy.input`,
  /** Reply: metric-weighted output gradients g̃, η included, [B, c]. */
  policyOutputGradient: (layer: string) => `layers.${layer}.policy.output_grad`,
  /** Reply: lower Cholesky factor of S_t, [B, B]. */
  policyCholesky: (layer: string) => `layers.${layer}.policy.chol`,
  /** Reply: change of the weight, [n, c]. */
  updateWeight: (layer: string) => `layers.${layer}.update.weight`,
  /** Reply: change of the bias, [c]. */
  updateBias: (layer: string) => `layers.${layer}.update.bias`,
} as const;

const STEP_DTYPES: readonly Dtype[] = ['F32', 'F64'];

/** A tensor that a step must carry; 'B' stands for the batch. */
interface ExpectedTensor {
  readonly name: string;
  readonly shape: readonly ('B' | number)[];
}

/** The tensors a step of this session must carry, no more and no fewer. */
function expectedTensors(layers: readonly Layer[]): readonly ExpectedTensor[] {
  return [
    { name: TENSOR.losses, shape: ['B'] },
    ...layers.flatMap(({ name, inputs, outputs }): ExpectedTensor[] => [
      { name: TENSOR.input(name), shape: ['B', inputs] },
      { name: TENSOR.outputGradient(name), shape: ['B', outputs] },
    ]),
  ];
}

/**
 * Checks a step's header against the session's layers.
 *
 * @returns the batch size B, from `losses`
 * @throws ProblemError `unknown_tensor`, `missing_tensor`, `dtype_unsupported` or `shape_mismatch`, naming the tensor; `step_too_large`
 */
export function checkStepHeader(header: SafetensorsHeader, layers: readonly Layer[]): number {
  const expected = new Map(expectedTensors(layers).map((tensor) => [tensor.name, tensor]));
  const found = new Map<string, TensorEntry>();
  for (const entry of header.entries) {
    if (!expected.has(entry.name)) {
      throw new ProblemError('unknown_tensor', {
        param: entry.name,
        detail: `${JSON.stringify(entry.name)} is no tensor of this session, whose layers are ${layerNames(layers)}.`,
        remedy:
          'Name tensors "losses", "layers.<layer>.input" and "layers.<layer>.output_grad", and send nothing else.',
      });
    }
    found.set(entry.name, entry);
  }
  const batch = batchOf(found.get(TENSOR.losses));
  for (const { name, shape } of expected.values()) {
    const entry = found.get(name);
    const wanted = shape.map((size) => (size === 'B' ? batch : size));
    if (entry === undefined) {
      throw new ProblemError('missing_tensor', {
        param: name,
        detail: `${name} is missing.`,
        remedy: `Send ${name} with shape ${formatShape(wanted)}.`,
      });
    }
    if (!STEP_DTYPES.includes(entry.dtype)) {
      throw new ProblemError('dtype_unsupported', {
        param: name,
        detail: `${name} has dtype ${entry.dtype}; a step takes ${STEP_DTYPES.join(' or ')}.`,
        remedy: 'Convert the tensor to F32.',
      });
    }
    if (entry.shape.length !== wanted.length || entry.shape.some((size, axis) => size !== wanted[axis])) {
      throw new ProblemError('shape_mismatch', {
        param: name,
        detail: `${name} has shape ${formatShape(entry.shape)}; ${formatShape(shape)} with B = ${String(batch)} was expected.`,
        remedy: 'Send every tensor with the batch of "losses" first and the features the session was created with.',
      });
    }
  }
  checkStepSize(layers.length, batch);
  return batch;
}

/** @throws ProblemError `step_too_large` */
function checkStepSize(layers: number, batch: number): void {
  const bytes = batchFactorBytes(layers, batch);
  if (batchWork(layers, batch) <= LIMITS.batchWork && bytes <= LIMITS.batchFactorBytes) return;
  const byWork = Math.floor(Math.cbrt(LIMITS.batchWork / layers));
  const byBytes = Math.floor(Math.sqrt(LIMITS.batchFactorBytes / batchFactorBytes(layers, 1)));
  throw new ProblemError('step_too_large', {
    param: TENSOR.losses,
    detail: `A batch of ${String(batch)} with ${String(layers)} layers takes one factorisation of ${String(batch)}×${String(batch)} per layer, ${String(bytes)} bytes together.`,
    remedy: `With ${String(layers)} layers send at most ${String(Math.min(byWork, byBytes))} samples in a step.`,
  });
}

function batchOf(losses: TensorEntry | undefined): number {
  if (losses === undefined) {
    throw new ProblemError('missing_tensor', {
      param: TENSOR.losses,
      detail: 'losses is missing.',
      remedy: 'Send the per-sample losses of the batch as "losses" with shape [B].',
    });
  }
  const [batch] = losses.shape;
  if (losses.shape.length !== 1 || batch === undefined || batch < 1 || batch > LIMITS.batch) {
    throw new ProblemError('shape_mismatch', {
      param: TENSOR.losses,
      detail: `losses has shape ${formatShape(losses.shape)}; [B] with 1 ≤ B ≤ ${String(LIMITS.batch)} was expected.`,
      remedy: `Send one loss per sample, at most ${String(LIMITS.batch)} samples in a step.`,
    });
  }
  return batch;
}

function layerNames(layers: readonly Layer[]): string {
  const shown = layers.slice(0, 8).map(({ name }) => name);
  return shown.join(', ') + (layers.length > shown.length ? ', …' : '');
}

const STEP_NUMBER = /^(0|[1-9][0-9]{0,14})$/;

/** Parses the sequence number of a step from its path segment. */
export function parseStepNumber(text: string): number {
  if (!STEP_NUMBER.test(text)) {
    throw new ProblemError('invalid_parameter', {
      param: 'n',
      detail: `The step number ${JSON.stringify(text)} is not a whole number from 0 to 999,999,999,999,999.`,
      remedy: 'Number the steps 0, 1, 2, … ; GET the session for its nextStep.',
    });
  }
  return Number(text);
}
