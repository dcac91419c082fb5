/** A refusal names the field, its value, and both ends of the range that the field takes. */
import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import type { ProblemError } from '../../shared/errors.ts';
import { hostedDefinitionSchema } from '../../shared/hosted-definition.ts';
import { sessionDefinitionSchema } from '../../shared/session.ts';
import { parseDocument } from '../../shared/validation.ts';

function detailOf(schema: z.ZodType, input: unknown): string | undefined {
  try {
    parseDocument(schema, input);
  } catch (error) {
    return (error as ProblemError).details.detail;
  }
  throw new Error('the document was taken');
}

describe('a definition', () => {
  const dense = { name: 'a', kind: 'dense', inputs: 3, outputs: 2 };
  const conv = { name: 'c', kind: 'conv2d', height: 4, width: 4, inputs: 1, outputs: 1, kernel: [3, 3] };
  const optimizer = (options: object) => ({ layers: [dense], optimizer: options });

  it.each<[unknown, string]>([
    [optimizer({ metric: { kind: 'adam', decay: 1.5 } }), 'optimizer.metric.decay is 1.5: it takes a number from 0 to less than 1.'],
    [optimizer({ metric: { kind: 'adam', epsilon: 0 } }), 'optimizer.metric.epsilon is 0: it takes a number greater than 0 and at most 1.'],
    [optimizer({ learningRate: { kind: 'step', value: 1, every: 2, factor: 1 } }), 'optimizer.learningRate.factor is 1: it takes a number greater than 0 and less than 1.'],
    [optimizer({ maximumNorm: 0 }), 'optimizer.maximumNorm is 0: it takes a number greater than 0.'],
    [optimizer({ lookahead: { steps: 0 } }), 'optimizer.lookahead.steps is 0: it takes a whole number from 1 to 100000.'],
    [optimizer({ terminalCurvature: { kind: 'gradient', lossScale: { floor: 0 } } }), 'optimizer.terminalCurvature.lossScale.floor is 0: it takes a number greater than 0 and at most 1000000.'],
    [optimizer({ metric: { kind: 'kronecker', firstInputFactor: { kind: 'frozen', rank: 0 } } }), 'optimizer.metric.firstInputFactor.rank is 0: it takes a whole number from 1 to 16384.'],
    [optimizer({ groups: [{ pattern: 'a' }, { pattern: '' }] }), 'optimizer.groups[1].pattern is "": it takes a text of 1 to 128 characters.'],
    [{ layers: [] }, 'layers is []: it takes a list of 1 to 512 items.'],
    [{ layers: [dense, { ...dense, name: 'b', outputs: 2.5 }] }, 'layers[1].outputs is 2.5: it takes a whole number from 1 to 16384.'],
    [{ layers: [dense, { ...conv, kernel: [3, 2000] }] }, 'layers[1].kernel[1] is 2000: it takes a whole number from 1 to 1024.'],
    [{ layers: [{ ...conv, kernel: [3] }] }, 'layers[0].kernel is [3]: it takes a list of 2 items.'],
    [{ layers: [{ ...conv, padding: { kind: 'explicit', rows: [0, -1], columns: [0, 0] } }] }, 'layers[0].padding.rows[1] is -1: it takes a whole number from 0 to 1024.'],
    [{ layers: [dense], ttlSeconds: 9 }, 'ttlSeconds is 9: it takes a whole number from 10 to 86400.'],
    [{ layers: [{ ...dense, inputs: 1e30 }] }, 'layers[0].inputs is 1e+30: it takes a whole number from 1 to 16384.'],
  ])('%j', (definition, detail) => {
    expect(detailOf(sessionDefinitionSchema, definition)).toBe(detail);
  }); // prettier-ignore

  it('of a model, through the layers of its residuals', () => {
    const inner = { kind: 'dense', name: 'a', outputs: 0 };
    const model = { input: [3], layers: [{ kind: 'residual', layers: [inner] }] };
    const definition = { mode: 'hosted', model, loss: { kind: 'mse' } };
    expect(detailOf(hostedDefinitionSchema, definition)).toBe(
      'model.layers[0].layers[0].outputs is 0: it takes a whole number from 1 to 16384.',
    );
  });

  it('what is no matter of range keeps its own words', () => {
    expect(detailOf(sessionDefinitionSchema, optimizer({ momentum: 'much' }))).toMatch(/"much".*number/);
    expect(detailOf(sessionDefinitionSchema, optimizer({ metric: { kind: 'newton' } }))).toContain('"newton"');
    expect(detailOf(sessionDefinitionSchema, {})).toMatch(/^layers is missing: /);
  });
});

describe('a range with one end', () => {
  it.each<[z.ZodType, unknown, string]>([
    [z.number().min(2), 1, 'a number of at least 2'],
    [z.number().max(2), 3, 'a number of at most 2'],
    [z.number().lt(2), 2, 'a number less than 2'],
    [z.number().gt(2), 2, 'a number greater than 2'],
    [z.int().min(1), 0, 'a whole number of at least 1'],
    [z.array(z.string()).min(1), [], 'a list of at least 1 items'],
    [z.string().max(1), 'ab', 'a text of at most 1 characters'],
    [z.union([z.number().min(2), z.literal('none')]), 1, 'expected number to be >=2'],
  ])('%#: names that end', (schema, value, words) => {
    expect(detailOf(z.object({ field: schema }), { field: value })).toContain(words);
  });
});
