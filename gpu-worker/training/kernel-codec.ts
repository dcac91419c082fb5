/** `kernel` mode: tangent kernels and factor statistics to tensors, and coefficients, factors and inverses to a reply's body. */
import { at } from '../../shared/at.ts';
import type { KernelDefinition } from '../../shared/kernel-definition.ts';
import { carriesStatistics, factorTensors } from '../../shared/kernel-tensors.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import { encode, readHeader, type NamedTensor, type TensorValues } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { checkStepHeader } from '../../shared/step.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { packLower, packSymmetric, unpackSymmetric } from '../../shared/triangle.ts';
import type { Factors } from '../optimizer/curvature/kronecker.ts';
import type { CoefficientSolver } from '../optimizer/ddp/coefficients.ts';
import type { KernelBatch, KernelReply, KernelState, KernelStepResult } from '../optimizer/kernel-step.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { readVersions } from './metric-versions.ts';
import {
  assertGram,
  assertNoneNegative,
  mean,
  readFinite,
  tensorNamed,
  type CheckedTensor,
} from '../../shared/checked-tensors.ts';

/** A body whose header and values are checked. */
export interface DecodedKernels {
  /** B. */
  readonly batch: number;
  /** Mean loss of the batch. */
  readonly loss: number;
  /** Which inverses the client holds, per layer. */
  readonly heldVersions: readonly number[];
  /** Copies the tensors to the device. */
  readonly upload: (engine: Engine) => KernelBatch;
}

/**
 * Checks a step's body: header, names, shapes, that every value is finite, that no kernel or factor has a negative diagonal, and
 * that the client's inverses are ones that it can have.
 *
 * @param versions of the inverses that the service has, per layer
 * @throws ProblemError the codes of `checkStepHeader`, `non_finite_value` and `invalid_parameter`
 */
export function decodeKernels(
  body: Uint8Array,
  definition: KernelDefinition,
  versions: readonly number[],
  precision: Engine['precision'],
): DecodedKernels {
  const header = readHeader(body);
  const batch = checkStepHeader(header, definition);
  const { layers, optimizer } = definition;
  const tensors = readFinite(body, header, precision);
  const named = (name: string): CheckedTensor => tensorNamed(tensors, name);
  const columns = sentColumns(optimizer.terminalCurvature);
  const rows = batch * Math.max(1, columns);
  const isDiagonal = optimizer.batchCoupling === 'diagonal';
  const hasStatistics = carriesStatistics(header, definition, batch);

  for (const { name, factors } of layers) {
    if (isDiagonal) assertNoneNegative(named(TENSOR.gramDiagonal(name)));
    else assertGram(named(TENSOR.gram(name)), rows);
    if (factors === null || !hasStatistics) continue;
    const { input, output } = factorTensors(name);
    assertGram(named(input), factors.inputs);
    assertGram(named(output), factors.outputs);
  }
  return {
    batch,
    loss: mean(named(TENSOR.losses).values),
    heldVersions: readVersions(tensors, layers, versions),
    upload: (engine) => {
      const upload = (name: string): Tensor => {
        const { entry, values } = named(name);
        return engine.tensor(values, entry.shape);
      };
      const uploadSymmetric = (name: string, n: number): Tensor =>
        engine.tensor(unpackSymmetric(named(name).values, n), [n, n]);
      return {
        losses: upload(TENSOR.losses),
        previousLosses: tensors.has(TENSOR.previousLosses) ? upload(TENSOR.previousLosses) : null,
        kernels: layers.map(({ name }) => ({
          kernel: isDiagonal ? upload(TENSOR.gramDiagonal(name)) : uploadSymmetric(TENSOR.gram(name), rows),
          plainPrediction: columns === 0 ? null : engine.reshape(upload(TENSOR.gramMeanGradient(name)), [rows]),
        })),
        statistics: !hasStatistics
          ? null
          : layers.map(({ name, factors }): Factors | null => {
              if (factors === null) return null;
              const { input, output } = factorTensors(name);
              return {
                inputFactor: uploadSymmetric(input, factors.inputs),
                outputFactor: uploadSymmetric(output, factors.outputs),
              };
            }),
      };
    },
  };
}

/** Per layer the version of its newest inverses; 0 before there are any. */
export function inverseVersions({ factors }: KernelState): number[] {
  return factors.map((layer) => layer?.version ?? 0);
}

/** The tensors of a reply, read from the device. */
export function kernelReplyTensors(
  engine: Engine,
  { layers, optimizer }: KernelDefinition,
  { reply, learningRates, state }: Pick<KernelStepResult, 'reply' | 'learningRates' | 'state'>,
  heldVersions: readonly number[],
): NamedTensor[] {
  const perLayer = layers.flatMap(({ name }, t): NamedTensor[] => [
    { name: TENSOR.learningRate(name), shape: [], values: Float64Array.of(at(learningRates, t)) },
    ...coefficientTensors(engine, name, reply, t),
    ...inverseTensors(engine, name, state.factors[t] ?? null, at(heldVersions, t)),
  ]);
  if (optimizer.metric.kind === 'client') return perLayer;
  const versions = Float64Array.from(inverseVersions(state));
  return [...perLayer, { name: TENSOR.metricVersions, shape: [layers.length], values: versions }];
}

function coefficientTensors(engine: Engine, layer: string, reply: KernelReply, t: number): NamedTensor[] {
  switch (reply.kind) {
    case 'coefficients':
      return [vector(engine, TENSOR.coefficients(layer), at(reply.coefficients, t))];
    case 'factors':
      return solverTensors(engine, layer, at(reply.solvers, t));
  }
}

function solverTensors(engine: Engine, layer: string, solver: CoefficientSolver): NamedTensor[] {
  switch (solver.kind) {
    case 'cholesky': {
      const [n = 0] = solver.factor.shape;
      const values = packLower(engine.read(solver.factor), n);
      return [
        { name: TENSOR.policyCholesky(layer), shape: [values.length], values },
        vector(engine, TENSOR.policyTarget(layer), solver.target),
      ];
    }
    case 'diagonal':
      return [
        vector(engine, TENSOR.policyGain(layer), solver.gain),
        vector(engine, TENSOR.policyOffset(layer), solver.offset),
      ];
    case 'conjugate-gradient':
      throw new TypeError('a system is handed out with its Cholesky factor');
  }
}

/** A layer's inverses, where the client's are older. */
function inverseTensors(
  engine: Engine,
  layer: string,
  factors: KernelState['factors'][number],
  heldVersion: number,
): NamedTensor[] {
  if (factors?.inverses == null || heldVersion >= factors.version) return [];
  const { input, output } = factors.inverses;
  return [
    symmetric(TENSOR.inputInverse(layer), engine.read(input), input.shape[0] ?? 0),
    symmetric(TENSOR.outputInverse(layer), engine.read(output), output.shape[0] ?? 0),
  ];
}

function symmetric(name: string, matrix: TensorValues, n: number): NamedTensor {
  const values = packSymmetric(matrix, n);
  return { name, shape: [values.length], values };
}

function vector(engine: Engine, name: string, tensor: Tensor): NamedTensor {
  return { name, shape: tensor.shape, values: engine.read(tensor) };
}

/** The body of a reply: its tensors, and the step's metrics in `__metadata__`. */
export function encodeKernelReply(tensors: readonly NamedTensor[], metrics: StepMetrics): Uint8Array<ArrayBuffer> {
  return encode(tensors, { metrics: JSON.stringify(metrics) });
}
