/**
 * POST /v1/kernel/solve: the stateless sibling of `kernel` mode. The N_t of all stages go in, κ_t or the Cholesky factors come out.
 * Edge and worker take the same bodies and options.
 */
import * as z from 'zod';
import { assertGram, readFinite, tensorNamed, type CheckedTensor, type Precision } from './checked-tensors.ts';
import { batchCost, type BatchSystems } from './cost.ts';
import { ProblemError } from './errors.ts';
import { checkTensors, type ExpectedTensor } from './expected-tensor.ts';
import { LIMITS } from './limits.ts';
import { FLOATING_DTYPES, type SafetensorsHeader } from './safetensors.ts';
import { checkStepSize, solutionExcess } from './step.ts';
import { triangleSize } from './triangle.ts';

export const SOLVE_TENSOR = {
  /** Request: φ_i, [B]. */
  losses: 'losses',
  /** Request: N_t at unit learning rate, packed upper triangles in the order of the forward pass, [S, B(B + 1)/2]. */
  grams: 'grams',
  /** Reply: κ_t, [S, B]. */
  coefficients: 'coefficients',
  /** Reply: the lower Cholesky factors of S_t, packed, [S, B(B + 1)/2]. */
  cholesky: 'chol',
  /** Reply: 1/h, [B]. */
  target: 'target',
} as const;

const ACCEPTED = { error: 'it takes a number greater than 0 and at most 1000000' };
const positive = z.number(ACCEPTED).gt(0, ACCEPTED).max(1e6, ACCEPTED);

/** A positive number of a query, which is text. */
const queryNumber = (value: number, description: string) =>
  z
    .string()
    .default(String(value))
    .transform((text) => (text.trim() === '' ? Number.NaN : Number(text)))
    .pipe(positive)
    .meta({ description, type: 'number', exclusiveMinimum: 0, maximum: 1e6, default: value });

export const kernelSolveOptionsSchema = z
  .strictObject({
    learningRate: queryNumber(10, 'η > 0'),
    coupling: z.enum(['layerwise', 'value', 'gauss-newton-step', 'feedback']).default('value').meta({
      description: 'As in a session; `feedback` needs the factors',
    }),
    reply: z.enum(['coefficients', 'factors']).default('coefficients').meta({
      description: 'κ_t, or the Cholesky factor of S_t, to solve for any s_t',
    }),
    lossFloor: queryNumber(0.5, 'h₀, the smallest terminal weight'),
    lossCeiling: queryNumber(100, 'The largest terminal weight'),
  })
  .superRefine(({ coupling, reply, lossFloor, lossCeiling }, context) => {
    if (coupling === 'feedback' && reply === 'coefficients') {
      const message = 'with coupling "feedback" κ depends on your second forward pass; ask for reply "factors"';
      context.addIssue({ code: 'custom', path: ['reply'], message, input: reply });
    }
    if (coupling === 'gauss-newton-step' && reply === 'factors') {
      const message = 'coupling "gauss-newton-step" predicts s itself; ask for reply "coefficients"';
      context.addIssue({ code: 'custom', path: ['reply'], message, input: reply });
    }
    if (lossFloor > lossCeiling) {
      const message = `it must not exceed lossCeiling, ${String(lossCeiling)}`;
      context.addIssue({ code: 'custom', path: ['lossFloor'], message, input: lossFloor });
    }
  });

export type KernelSolveOptions = z.output<typeof kernelSolveOptionsSchema>;

const EXPECTED: readonly [ExpectedTensor, ...ExpectedTensor[]] = [
  { name: SOLVE_TENSOR.losses, layer: null, shape: ['B'], dtypes: FLOATING_DTYPES, presence: 'required' },
  {
    name: SOLVE_TENSOR.grams,
    layer: SOLVE_TENSOR.grams,
    shape: ['S', { columns: 1 }],
    dtypes: FLOATING_DTYPES,
    presence: 'required',
  },
];

export interface SolveSizes {
  /** B. */
  readonly batch: number;
  /** S. */
  readonly stages: number;
}

/** All are factorised. */
const SYSTEMS = {
  optimizer: {
    terminalCurvature: { kind: 'sampled-fisher' },
    batchCoupling: 'full',
    solver: { choleskyRows: LIMITS.batch, iterations: 1 },
  },
  handsOutFactors: true,
  carriesMatrices: true,
} satisfies Omit<BatchSystems, 'layers'>;

/**
 * Checks the header of a body.
 *
 * @throws ProblemError `unknown_tensor`, `missing_tensor`, `dtype_unsupported` or `shape_mismatch`, naming the tensor;
 *   `step_too_large`
 */
export function checkSolveHeader(header: SafetensorsHeader): SolveSizes {
  const { batch, positions } = checkTensors(header, EXPECTED, 'this request', false);
  const stages = positions.get(SOLVE_TENSOR.grams) ?? 0;
  if (stages > LIMITS.layers) {
    throw new ProblemError('step_too_large', {
      param: SOLVE_TENSOR.grams,
      detail: `${SOLVE_TENSOR.grams} has ${String(stages)} stages; at most ${String(LIMITS.layers)} are taken.`,
      remedy: 'Add up the kernels of neighbouring layers, or leave out the first ones.',
    });
  }
  checkStepSize(SOLVE_TENSOR.losses, batch, (samples) =>
    solutionExcess(stages, SYSTEMS.optimizer.solver, batchCost({ layers: stages, ...SYSTEMS }, samples)),
  );
  return { batch, stages };
}

/** A body whose header and values are checked. */
export interface DecodedSolve extends SolveSizes {
  /** [B]. */
  readonly losses: CheckedTensor['values'];
  /** Packed, per stage. */
  readonly grams: readonly CheckedTensor['values'][];
}

/** @throws ProblemError the codes of `checkSolveHeader`, `non_finite_value`, `invalid_parameter` for a negative diagonal */
export function decodeSolve(body: Uint8Array, header: SafetensorsHeader, precision: Precision): DecodedSolve {
  const sizes = checkSolveHeader(header);
  const tensors = readFinite(body, header, precision);
  const { entry, values } = tensorNamed(tensors, SOLVE_TENSOR.grams);
  const size = triangleSize(sizes.batch);
  const grams = Array.from({ length: sizes.stages }, (_, t) => values.subarray(t * size, (t + 1) * size));
  for (const [t, gram] of grams.entries()) {
    assertGram({ entry: { ...entry, name: `${entry.name}[${String(t)}]` }, values: gram }, sizes.batch, entry.name);
  }
  return { ...sizes, losses: tensorNamed(tensors, SOLVE_TENSOR.losses).values, grams };
}
