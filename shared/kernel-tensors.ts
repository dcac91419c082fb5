/** The tensors of a step in `kernel` mode. */
import { missingTensor, type ExpectedTensor } from './expected-tensor.ts';
import type { KernelDefinition, KernelFactorSizes, KernelLayer } from './kernel-definition.ts';
import { sentColumns } from './optimizer.ts';
import { FLOATING_DTYPES, INDEX_DTYPES, type SafetensorsHeader } from './safetensors.ts';
import { TENSOR } from './tensor-names.ts';
import { triangleSize } from './triangle.ts';

type Definition = Pick<KernelDefinition, 'layers' | 'optimizer'>;

/** A tensor that a step in `kernel` mode carries. */
export type KernelStepTensor = ExpectedTensor &
  (
    | { readonly role: 'losses' | 'previousLosses' | 'metricVersions'; readonly layer: null }
    | {
        readonly role: 'gram' | 'gramDiagonal' | 'gramMeanGradient' | 'inputFactor' | 'outputFactor';
        readonly layer: string;
      }
  );

/** The tensors a step of this session carries; no others. */
export function kernelStepTensors({ layers, optimizer }: Definition): [KernelStepTensor, ...KernelStepTensor[]] {
  const { batchCoupling, learningRate, metric, terminalCurvature } = optimizer;
  const columns = sentColumns(terminalCurvature);
  const required = { dtypes: FLOATING_DTYPES, presence: 'required' } as const;
  const optional = { dtypes: FLOATING_DTYPES, presence: 'optional' } as const;
  const expected: [KernelStepTensor, ...KernelStepTensor[]] = [
    { name: TENSOR.losses, layer: null, role: 'losses', shape: ['B'], ...required },
  ];
  if (learningRate.kind === 'levenberg-marquardt') {
    expected.push({ name: TENSOR.previousLosses, layer: null, role: 'previousLosses', shape: ['B'], ...optional });
  }
  if (metric.kind === 'kronecker') {
    const name = TENSOR.metricVersions;
    const shape = [layers.length];
    expected.push({ name, layer: null, role: 'metricVersions', shape, dtypes: INDEX_DTYPES, presence: 'optional' });
  }
  for (const { name: layer, factors } of layers) {
    if (batchCoupling === 'diagonal') {
      expected.push({ name: TENSOR.gramDiagonal(layer), layer, role: 'gramDiagonal', shape: ['B'], ...required });
    } else {
      const shape = [{ columns: Math.max(1, columns) }];
      expected.push({ name: TENSOR.gram(layer), layer, role: 'gram', shape, ...required });
    }
    if (columns > 0) {
      const name = TENSOR.gramMeanGradient(layer);
      expected.push({ name, layer, role: 'gramMeanGradient', shape: ['B', columns], ...required });
    }
    if (factors === null) continue;
    const { input, output } = factorTensors(layer);
    expected.push({ name: input, layer, role: 'inputFactor', shape: blocks(factors, factors.inputs), ...optional });
    expected.push({ name: output, layer, role: 'outputFactor', shape: blocks(factors, factors.outputs), ...optional });
  }
  return expected;
}

/** The shape of a layer's factors: one triangle of n×n, or a row of them per group. */
function blocks({ groups }: KernelFactorSizes, n: number): number[] {
  return groups === 1 ? [triangleSize(n)] : [groups, triangleSize(n)];
}

/** Names of a layer's factor statistics. */
export function factorTensors(layer: string): { readonly input: string; readonly output: string } {
  return { input: TENSOR.inputFactor(layer), output: TENSOR.outputFactor(layer) };
}

/**
 * Whether a header has factor statistics.
 *
 * @param isFirstFrozen whether those of a first input factor that is frozen some time may be missing: it is by now, or nobody knows
 * @throws ProblemError `missing_tensor` if it has those of some layers only
 */
export function carriesStatistics(
  header: SafetensorsHeader,
  definition: Definition,
  batch: number,
  isFirstFrozen: boolean,
): boolean {
  const { layers, optimizer } = definition;
  const present = new Set(header.entries.map(({ name }) => name));
  const statistics = kernelStepTensors(definition).filter(
    ({ role }) => role === 'inputFactor' || role === 'outputFactor',
  );
  const isFreezing = optimizer.metric.kind === 'kronecker' && optimizer.metric.firstInputFactor.kind === 'frozen';
  const mayMiss = ({ role, layer }: KernelStepTensor): boolean =>
    isFreezing && isFirstFrozen && role === 'inputFactor' && layer === layers[0]?.name;
  const missing = statistics.find((tensor) => !present.has(tensor.name) && !mayMiss(tensor));
  if (missing === undefined) return statistics.length > 0;
  if (statistics.some(({ name }) => present.has(name))) throw missingTensor(missing, batch);
  return false;
}

/** Layers with factors, and their places among all. */
export function factoredLayers(layers: readonly KernelLayer[]): { readonly layer: KernelLayer; readonly t: number }[] {
  return layers.map((layer, t) => ({ layer, t })).filter(({ layer }) => layer.factors !== null);
}
