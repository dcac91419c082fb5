/** Bodies of steps for any definition, filled with seeded numbers. */
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import type { KernelDefinition } from '../../shared/kernel-definition.ts';
import { kernelStepTensors } from '../../shared/kernel-tensors.ts';
import type { LayersDefinition } from '../../shared/layers-definition.ts';
import { classCount, truthKind } from '../../shared/loss.ts';
import { modelOutputs, type ModelInput } from '../../shared/model.ts';
import type { Random } from '../../shared/random.ts';
import { encode, type NamedTensor } from '../../shared/safetensors.ts';
import type { SessionDefinition } from '../../shared/session.ts';
import { elementCount } from '../../shared/shape.ts';
import { expectedTensors } from '../../shared/step.ts';

/** A small model with everything that has a state: running statistics, and draws of dropout. */
export const MODEL: ModelInput = {
  input: [5],
  layers: [
    { kind: 'dense', name: 'a', outputs: 4 },
    { kind: 'batch-norm', name: 'n' },
    { kind: 'tanh' },
    { kind: 'dropout', rate: 0.3 },
    { kind: 'dense', name: 'b', outputs: 3 },
  ],
};

export const BATCH = 6;
const POSITIONS = 3;

export function randomStep(definition: SessionDefinition, random: Random, step = 0): Uint8Array<ArrayBuffer> {
  switch (definition.mode) {
    case 'layers':
      return layersStep(definition, random, step);
    case 'kernel':
      return kernelStep(definition, random, step);
    case 'hosted':
      return hostedStep(definition, random);
  }
}

/** Statistics come with every second step. */
function kernelStep(definition: KernelDefinition, random: Random, step: number): Uint8Array<ArrayBuffer> {
  const sizes = new Map(definition.layers.map(({ name, factors }) => [name, factors]));
  const tensors = kernelStepTensors(definition).flatMap(({ name, role, layer }): NamedTensor[] => {
    const factors = layer === null ? null : (sizes.get(layer) ?? null);
    switch (role) {
      case 'losses':
      case 'previousLosses':
        if (role === 'previousLosses' && step === 0) return [];
        return [{ name, shape: [BATCH], values: Float32Array.from({ length: BATCH }, () => 0.5 + random()) }];
      case 'gram':
        return [packedGram(name, BATCH, random)];
      case 'inputFactor':
        return step % 2 === 0 ? [packedGrams(name, factors!.inputs, factors!.groups, random)] : [];
      case 'outputFactor':
        return step % 2 === 0 ? [packedGrams(name, factors!.outputs, factors!.groups, random)] : [];
      case 'metricVersions':
        return [];
      case 'gramDiagonal':
      case 'gramMeanGradient':
        throw new Error('these bodies are of whole kernels');
    }
  });
  return encode(tensors);
}

/** One as below, or a row of them per group. */
function packedGrams(name: string, n: number, groups: number, random: Random): NamedTensor {
  const grams = Array.from({ length: groups }, () => packedGram(name, n, random));
  if (groups === 1) return grams[0]!;
  const values = Float32Array.from(grams.flatMap((gram) => [...gram.values]));
  return { name, shape: [groups, values.length / groups], values };
}

/** The upper triangle, row by row, of M Mᵀ. */
function packedGram(name: string, n: number, random: Random): NamedTensor {
  const M = Array.from({ length: n }, () => Array.from({ length: n + 1 }, () => random() - 0.5));
  const values = M.flatMap((row, i) =>
    M.slice(i).map((other) => row.reduce((sum, value, k) => sum + value * other[k]!, 0)),
  );
  return { name, shape: [values.length], values: Float32Array.from(values) };
}

function layersStep(definition: LayersDefinition, random: Random, step: number): Uint8Array<ArrayBuffer> {
  const tokens = new Map(
    definition.layers.map((layer) => [layer.name, layer.kind === 'embedding' ? layer.inputs : null]),
  );
  // The first step has none before it to judge; versions are named by who holds inverses.
  const expected = expectedTensors(definition).filter(
    ({ role }) => role !== 'metricVersions' && (role !== 'previousLosses' || step > 0),
  );
  return encode(
    expected.map(({ name, layer, role, shape }) => {
      const sizes = shape.map((size) => (size === 'B' ? BATCH : size === 'S' ? POSITIONS : size));
      const vocabulary = layer === null || role !== 'input' ? null : (tokens.get(layer) ?? null);
      const draw = (): number => {
        if (vocabulary !== null) return Math.floor(vocabulary * random());
        return role === 'losses' || role === 'previousLosses' ? 0.5 + random() : 2 * random() - 1;
      };
      return { name, shape: sizes, values: Float32Array.from({ length: elementCount(sizes) }, draw) };
    }),
  );
}

function hostedStep({ model, loss }: HostedDefinition, random: Random): Uint8Array<ArrayBuffer> {
  const x = { name: 'x', shape: [BATCH, ...model.input] };
  const outputs = modelOutputs(model);
  const isLabels = truthKind(loss) === 'labels';
  const y = { name: 'y', shape: isLabels ? [BATCH] : [BATCH, outputs] };
  const truth = (): number => (isLabels ? Math.floor(classCount(loss, outputs) * random()) : random());
  const filled = (shape: readonly number[], draw: () => number): Float32Array =>
    Float32Array.from({ length: elementCount(shape) }, draw);
  return encode([
    { ...x, values: filled(x.shape, () => 2 * random() - 1) },
    { ...y, values: filled(y.shape, truth) },
  ]);
}
