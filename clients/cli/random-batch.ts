/** Mini-batches of random numbers, in the shapes that a session takes: for timing, where only sizes matter. */
import { kernelStepTensors } from '../../shared/kernel-tensors.ts';
import { truthKind } from '../../shared/loss.ts';
import { modelOutputs } from '../../shared/model.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import { gaussian, type Random } from '../../shared/random.ts';
import type { HostedSession, KernelSession, LayersSession } from '../../shared/session.ts';
import { elementCount } from '../../shared/shape.ts';
import { expectedTensors, type LayersStepTensor } from '../../shared/step.ts';
import type { MiniBatchInput } from '../js/hosted-session.ts';
import type { KernelInput, KernelStepInput } from '../js/kernel-session.ts';
import type { LayerInput, StepInput } from '../js/layers-session.ts';

/** Of a matrix Z with Z Zᵀ in a Gram matrix's place: enough that it is no product of two vectors. */
const GRAM_RANK = 8;

const normal = (count: number, random: Random, deviation = 1): Float32Array =>
  Float32Array.from({ length: count }, () => deviation * gaussian(random));
const uniform = (count: number, random: Random): Float32Array => Float32Array.from({ length: count }, random);

/** @param positions S, of layers over sequences and of embeddings */
export function randomLayersBatch(session: LayersSession, batch: number, positions: number, random: Random): StepInput {
  const tensors = expectedTensors(session);
  const sizeOf = ({ shape }: LayersStepTensor): number =>
    elementCount(shape.map((axis) => (axis === 'S' ? positions : axis === 'B' ? batch : axis)));
  const layers = session.layers.map((layer): [string, LayerInput] => {
    const own = tensors.filter((tensor) => tensor.layer === layer.name);
    const sized = (role: LayersStepTensor['role']): number | null => {
      const tensor = own.find((each) => each.role === role);
      return tensor === undefined ? null : sizeOf(tensor);
    };
    const inputs = sized('input');
    const columns = sized('columnGradient');
    const input =
      inputs === null
        ? null
        : layer.kind === 'embedding'
          ? tokens(inputs, layer.inputs, random)
          : normal(inputs, random);
    const parameters = own.flatMap((tensor) =>
      tensor.role === 'parameter' ? [[tensor.parameter, normal(sizeOf(tensor), random, 0.1)] as const] : [],
    );
    return [
      layer.name,
      {
        ...(input === null ? {} : { input }),
        outputGradient: normal(sized('lossGradient') ?? 0, random, 0.1),
        ...(columns === null ? {} : { curvatureGradient: normal(columns, random, 0.1) }),
        parameters: Object.fromEntries(parameters),
      },
    ];
  });
  return { losses: uniform(batch, random), layers: Object.fromEntries(layers) };
}

/** @param hasStatistics whether it carries factor statistics, where the layers have factors */
export function randomKernelBatch(
  session: KernelSession,
  batch: number,
  hasStatistics: boolean,
  random: Random,
): KernelStepInput {
  const columns = sentColumns(session.optimizer.terminalCurvature);
  const rows = batch * Math.max(1, columns);
  const tensors = kernelStepTensors(session);
  const layers = session.layers.map(({ name, factors }): [string, KernelInput] => {
    const has = (role: string): boolean => tensors.some((tensor) => tensor.layer === name && tensor.role === role);
    return [
      name,
      {
        ...(has('gram') ? { gram: gram(rows, random) } : {}),
        ...(has('gramDiagonal') ? { gramDiagonal: uniform(batch, random) } : {}),
        ...(has('gramMeanGradient') ? { gramMeanGradient: normal(rows, random, 0.1) } : {}),
        ...(factors === null || !hasStatistics
          ? {}
          : { factors: { input: gram(factors.inputs, random), outputGradient: gram(factors.outputs, random) } }),
      },
    ];
  });
  return { losses: uniform(batch, random), layers: Object.fromEntries(layers) };
}

export function randomHostedBatch({ model, loss }: HostedSession, batch: number, random: Random): MiniBatchInput {
  const outputs = modelOutputs(model);
  const x = normal(batch * elementCount(model.input), random);
  const y = truthKind(loss) === 'labels' ? tokens(batch, outputs, random) : uniform(batch * outputs, random);
  return { x, y };
}

/** Whole numbers from 0 to `count` − 1. */
function tokens(size: number, count: number, random: Random): Float32Array {
  return Float32Array.from({ length: size }, () => Math.floor(count * random()));
}

/** Z Zᵀ of a random Z, positive semi-definite [n, n]. */
function gram(n: number, random: Random): Float32Array {
  const z = normal(n * GRAM_RANK, random, 1 / Math.sqrt(GRAM_RANK));
  const result = new Float32Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = 0; k < GRAM_RANK; k++) sum += (z[i * GRAM_RANK + k] ?? 0) * (z[j * GRAM_RANK + k] ?? 0);
      result[i * n + j] = sum;
      result[j * n + i] = sum;
    }
  }
  return result;
}
