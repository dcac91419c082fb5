/** Token numbers of embedding layers, as a step's body carries them: whole and within the vocabulary, or refused by name. */
import { describe, expect, it } from 'vitest';
import { decodeStep } from '../../gpu-worker/training/layers-codec.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { ProblemError } from '../../shared/errors.ts';
import { encode, type TensorValues } from '../../shared/safetensors.ts';
import { layersDefinitionSchema } from '../../shared/layers-definition.ts';

const VOCABULARY = 4;
const definition = layersDefinitionSchema.parse({
  layers: [{ name: 'tokens', kind: 'embedding', inputs: VOCABULARY, outputs: 2 }],
  optimizer: { coupling: 'value' },
});

function body(tokens: TensorValues): Uint8Array {
  return encode([
    { name: 'losses', shape: [2], values: Float32Array.of(1, 2) },
    { name: 'layers.tokens.input', shape: [2, 3], values: tokens },
    { name: 'layers.tokens.output_grad', shape: [2, 3, 2], values: new Float32Array(12) },
  ]);
}

function problemOf(tokens: TensorValues): ProblemError {
  try {
    decodeStep(body(tokens), definition, 'float32', []);
  } catch (error) {
    if (error instanceof ProblemError) return error;
    throw error;
  }
  throw new Error('the body was taken');
}

describe('token numbers', () => {
  it('from 0 to the size of the vocabulary less one are taken', () => {
    const engine = createReferenceEngine();
    const tokens = [0, VOCABULARY - 1, 1, 2, 2, -0];
    for (const values of [Float32Array.from(tokens), Float64Array.from(tokens)]) {
      const { layers } = decodeStep(body(values), definition, 'float32', []).upload(engine);
      expect([...engine.read(layers[0]!.input!)]).toEqual(tokens);
    }
  });

  it.each([
    ['beyond the vocabulary', VOCABULARY],
    ['negative', -1],
    ['not whole', 1.5],
    ['whole only once it is rounded to float32', 1 + 1e-12],
    ['far beyond', 1e30],
  ])('%s are refused, by tensor, place and value', (_, token) => {
    const problem = problemOf(Float64Array.of(0, 1, 2, 3, token, 0));
    expect(problem.code).toBe('invalid_index');
    expect(problem.status).toBe(422);
    expect(problem.retryable).toBe(false);
    expect(problem.details.param).toBe('layers.tokens.input');
    expect(problem.details.detail).toBe(
      `layers.tokens.input[1, 1] is ${String(token)}; a whole number from 0 to 3 was expected.`,
    );
  });

  it('that are not finite are refused as such', () => {
    expect(problemOf(Float32Array.of(0, 1, 2, 3, Number.NaN, 0)).code).toBe('non_finite_value');
  });
});
