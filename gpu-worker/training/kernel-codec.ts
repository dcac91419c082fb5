/** `kernel` mode: tangent kernels and factor statistics to tensors, and coefficients, factors and inverses to a reply's body. */
import { at } from '../../shared/at.ts';
import type { KernelDefinition } from '../../shared/kernel-definition.ts';
import { carriesStatistics, factorTensors } from '../../shared/kernel-tensors.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import { readHeader } from '../../shared/safetensors.ts';
import { checkStepHeader } from '../../shared/step.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { triangleSize, unpackAllSymmetric, unpackSymmetric } from '../../shared/triangle.ts';
import {
  isFirstInputFrozen,
  type BlockStatistics,
  type KernelBatch,
  type KernelReply,
  type KernelState,
  type KernelStepResult,
  type SharedFactors,
} from '../optimizer/kernel-step.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { scalarTensor } from '../tensor/scalar.ts';
import { readVersions } from './metric-versions.ts';
import { solverTensors, symmetricBlocks, whole, type ReplyTensor } from './reply-tensors.ts';
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
 * @param state before the step: which inverses the client can have, and which statistics it may leave out
 * @throws ProblemError the codes of `checkStepHeader`, `non_finite_value` and `invalid_parameter`
 */
export function decodeKernels(
  body: Uint8Array,
  definition: KernelDefinition,
  state: KernelState,
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
  const hasStatistics = carriesStatistics(header, definition, batch, isFirstInputFrozen(optimizer, state));

  for (const { name, factors } of layers) {
    if (isDiagonal) assertNoneNegative(named(TENSOR.gramDiagonal(name)));
    else assertGram(named(TENSOR.gram(name)), rows);
    if (factors === null || !hasStatistics) continue;
    const { input, output } = factorTensors(name);
    if (tensors.has(input)) assertGrams(named(input), factors.inputs);
    assertGrams(named(output), factors.outputs);
  }
  return {
    batch,
    loss: mean(named(TENSOR.losses).values),
    heldVersions: readVersions(tensors, layers, inverseVersions(state)),
    upload: (engine) => {
      const upload = (name: string): Tensor => {
        const { entry, values } = named(name);
        return engine.tensor(values, entry.shape);
      };
      const uploadSymmetric = (name: string, n: number): Tensor =>
        engine.tensor(unpackSymmetric(named(name).values, n), [n, n]);
      const uploadBlocks = (name: string, n: number): Tensor[] =>
        unpackAllSymmetric(named(name).values, n).map((matrix) => engine.tensor(matrix, [n, n]));
      return {
        losses: upload(TENSOR.losses),
        previousLosses: tensors.has(TENSOR.previousLosses) ? upload(TENSOR.previousLosses) : null,
        kernels: layers.map(({ name }) => ({
          kernel: isDiagonal ? upload(TENSOR.gramDiagonal(name)) : uploadSymmetric(TENSOR.gram(name), rows),
          plainPrediction: columns === 0 ? null : engine.reshape(upload(TENSOR.gramMeanGradient(name)), [rows]),
        })),
        statistics: !hasStatistics
          ? null
          : layers.map(({ name, factors }): BlockStatistics[] | null => {
              if (factors === null) return null;
              const { input, output } = factorTensors(name);
              const inputs = tensors.has(input) ? uploadBlocks(input, factors.inputs) : null;
              return uploadBlocks(output, factors.outputs).map((outputFactor, block) => ({
                inputFactor: inputs === null ? null : at(inputs, block),
                outputFactor,
              }));
            }),
      };
    },
  };
}

/** @throws ProblemError `invalid_parameter` for a negative diagonal, of any block */
function assertGrams({ entry, values }: CheckedTensor, n: number): void {
  const size = triangleSize(n);
  for (let start = 0; start < values.length; start += size) {
    assertGram({ entry, values: values.subarray(start, start + size) }, n);
  }
}

/** Per layer the version of its newest inverses; 0 before there are any. */
function inverseVersions({ factors }: KernelState): number[] {
  return factors.map((layer) => layer?.version ?? 0);
}

/** The tensors of a reply. */
export function kernelReplyTensors(
  engine: Engine,
  { layers, optimizer }: KernelDefinition,
  { reply, learningRates, state }: Pick<KernelStepResult, 'reply' | 'learningRates' | 'state'>,
  heldVersions: readonly number[],
): ReplyTensor[] {
  const perLayer = layers.flatMap(({ name }, t): ReplyTensor[] => [
    whole(TENSOR.learningRate(name), scalarTensor(engine, at(learningRates, t))),
    ...coefficientTensors(name, reply, t),
    ...inverseTensors(engine, name, at(state.factors, t), at(heldVersions, t)),
  ]);
  if (optimizer.metric.kind === 'client') return perLayer;
  return [...perLayer, whole(TENSOR.metricVersions, engine.tensor(inverseVersions(state), [layers.length]))];
}

function coefficientTensors(layer: string, reply: KernelReply, t: number): ReplyTensor[] {
  switch (reply.kind) {
    case 'coefficients':
      return [whole(TENSOR.coefficients(layer), at(reply.coefficients, t))];
    case 'factors':
      return solverTensors(layer, at(reply.solvers, t));
  }
}

/** A layer's inverses, where the client's are older. */
function inverseTensors(
  engine: Engine,
  layer: string,
  factors: SharedFactors | null,
  heldVersion: number,
): ReplyTensor[] {
  if (factors === null || heldVersion >= factors.version) return [];
  const inverses = factors.blocks.flatMap((block) => block.inverses ?? []);
  const inverseOf = (side: 'input' | 'output', name: string): ReplyTensor =>
    symmetricBlocks(
      engine,
      name,
      inverses.map((each) => each[side]),
    );
  return [inverseOf('input', TENSOR.inputInverse(layer)), inverseOf('output', TENSOR.outputInverse(layer))];
}
