/** POST /v1/kernel/solve, at the edge and beyond it; every refusal names what is wrong. */
import { describe, expect, it } from 'vitest';
import { LIMITS } from '../../shared/limits.ts';
import {
  encode,
  readHeader,
  readValues,
  SAFETENSORS_CONTENT_TYPE,
  type NamedTensor,
} from '../../shared/safetensors.ts';
import { mulberry32 } from '../oracle/network.ts';
import { call, expectProblem, json, type Answer, type ExpectedProblem } from './support.ts';
import { serveTests } from './stack.ts';

const stack = serveTests({ engine: 'wasm' });

const PATH = '/v1/kernel/solve';
const solve = (tensors: readonly NamedTensor[], query = ''): Promise<Answer> =>
  call(stack.url, 'POST', `${PATH}${query}`, { body: encode(tensors), type: SAFETENSORS_CONTENT_TYPE });
const solveJson = (body: string, query = ''): Promise<Answer> =>
  call(stack.url, 'POST', `${PATH}${query}`, { body, type: 'application/json', accept: 'application/json' });

/** N = I in every stage, and losses of 1/2, whose weight is 1: κ_t = 1/(B + η(S − t)). */
function identities(B: number, S: number): NamedTensor[] {
  const size = (B * (B + 1)) / 2;
  const grams = new Float32Array(S * size);
  for (let t = 0; t < S; t++) {
    let position = t * size;
    for (let i = 0; i < B; i++) {
      grams[position] = 1;
      position += B - i;
    }
  }
  return [
    { name: 'losses', shape: [B], values: new Float32Array(B).fill(0.5) },
    { name: 'grams', shape: [S, size], values: grams },
  ];
}

function coefficientsOf(answer: Answer): number[] {
  expect(answer.status).toBe(200);
  const header = readHeader(answer.bytes);
  const [entry] = header.entries;
  expect(entry).toMatchObject({ name: 'coefficients' });
  return [...readValues(answer.bytes, header, entry!)];
}

describe('either side of the edge’s limit', () => {
  const largest = Math.floor(Math.cbrt(LIMITS.edgeSolveWork / 2));
  it.each([1, largest, largest + 1, 300])('B = %i', async (B) => {
    const kappas = coefficientsOf(await solve(identities(B, 2), '?learningRate=3'));
    expect(kappas).toHaveLength(2 * B);
    for (const [index, kappa] of kappas.entries()) expect(kappa).toBeCloseTo(1 / (B + (index < B ? 6 : 3)), 6);
  });

  it('is met with the same numbers by edge and worker', async () => {
    // The first stage of the larger problem is the smaller one and a stage without weight, which only the worker is asked.
    const B = 64;
    const random = mulberry32(3);
    const roots = Float32Array.from({ length: B * 4 }, () => random() - 0.5);
    const size = (B * (B + 1)) / 2;
    const gram = new Float32Array(size);
    let position = 0;
    for (let i = 0; i < B; i++) {
      for (let j = i; j < B; j++) {
        for (let k = 0; k < 4; k++) gram[position]! += roots[4 * i + k]! * roots[4 * j + k]!;
        position++;
      }
    }
    const losses = { name: 'losses', shape: [B], values: Float32Array.from({ length: B }, () => random() + 0.1) };
    const stages = Math.floor(LIMITS.edgeSolveWork / B ** 3) + 1;
    const many = new Float32Array(stages * size);
    many.set(gram);
    const atEdge = coefficientsOf(await solve([losses, { name: 'grams', shape: [1, size], values: gram }]));
    const onWorker = coefficientsOf(await solve([losses, { name: 'grams', shape: [stages, size], values: many }]));
    for (const [i, kappa] of atEdge.entries()) expect(onWorker[i]).toBeCloseTo(kappa, 5);
  });
});

it('takes and gives JSON', async () => {
  const answer = await solveJson('{"losses": [0.5, 1], "grams": [[1, 0, 7]]}', '?learningRate=2&lossFloor=1');
  expect(answer.status).toBe(200);
  expect(json(answer)).toEqual({ coefficients: [[1 / 4, 1 / 16]] });
  const factors = await solveJson(
    '{"losses": [0.5, 1], "grams": [[1, 0, 1]]}',
    '?learningRate=2&lossFloor=1&reply=factors',
  );
  expect(json(factors)).toEqual({ chol: [[2, 0, 2]], target: [1, 1] });
});

const GOOD = '{"losses": [0.5, 1], "grams": [[1, 0, 2]]}';
interface Bad extends Partial<ExpectedProblem> {
  readonly title: string;
  readonly body?: string;
  readonly query?: string;
}
const BAD: readonly Bad[] = [
  {
    title: 'a learning rate below 0',
    query: '?learningRate=-1',
    param: 'learningRate',
    mentions: ['"-1"', 'greater than 0 and at most 1000000'],
  },
  { title: 'an empty learning rate', query: '?learningRate=', param: 'learningRate', mentions: ['greater than 0'] },
  { title: 'a learning rate in words', query: '?learningRate=ten', param: 'learningRate', mentions: ['"ten"'] },
  { title: 'an option there is not', query: '?eta=1', param: 'eta', mentions: ['eta'] },
  { title: 'feedback without factors', query: '?coupling=feedback', param: 'reply', mentions: ['factors'] },
  {
    title: 'a predicted step with factors',
    query: '?coupling=gauss-newton-step&reply=factors',
    param: 'reply',
    mentions: ['coefficients'],
  },
  {
    title: 'a floor above the ceiling',
    query: '?lossFloor=2&lossCeiling=1',
    param: 'lossFloor',
    mentions: ['lossCeiling, 1'],
  },
  { title: 'half a document', body: '{"losses": [', status: 400, code: 'malformed_json' },
  { title: 'a list', body: '[1, 2]', mentions: ['[1,2]', 'object of tensors'] },
  { title: 'null', body: 'null', mentions: ['null'] },
  {
    title: 'a text for a number',
    body: '{"losses": [0.5, "1"], "grams": [[1, 0, 2]]}',
    param: 'losses',
    mentions: ['losses[1] is "1"'],
  },
  {
    title: 'lists of two lengths',
    body: '{"losses": [0.5, 1], "grams": [[1, 0, 2], [1]]}',
    param: 'grams',
    mentions: ['grams[1]', 'a list of 3'],
  },
  { title: 'no losses', body: '{"grams": [[1]]}', code: 'missing_tensor', param: 'losses' },
  { title: 'another tensor', body: '{"losses": [1], "grams": [[1]], "x": 1}', code: 'unknown_tensor', param: 'x' },
  {
    title: 'whole matrices',
    body: '{"losses": [0.5, 1], "grams": [[[1, 0], [0, 1]]]}',
    code: 'shape_mismatch',
    param: 'grams',
    mentions: ['[S, B(B+1)/2] with B = 2'],
  },
  { title: 'no stage', body: '{"losses": [1], "grams": []}', code: 'shape_mismatch', param: 'grams' },
  {
    title: 'a number beyond float64',
    body: '{"losses": [1e999], "grams": [[1]]}',
    code: 'non_finite_value',
    param: 'losses',
  },
  {
    title: 'a negative diagonal',
    body: '{"losses": [0.5, 1], "grams": [[1, 0, -2]]}',
    param: 'grams',
    mentions: ['grams[0]: [1] is -2'],
  },
  {
    title: 'an indefinite matrix',
    body: '{"losses": [0.5, 1], "grams": [[1, 90, 1]]}',
    code: 'numerical_failure',
    param: 'grams',
    mentions: ['stage 0'],
  },
];

describe('refuses', () => {
  it.each(BAD)('$title', async ({ body = GOOD, query, status = 422, code = 'invalid_parameter', param, mentions }) => {
    expectProblem(await solveJson(body, query), { status, code, param, mentions });
  });

  it('more stages, or samples, than a worker takes', async () => {
    const size = 1;
    const grams = { name: 'grams', shape: [LIMITS.layers + 1, size], values: new Float32Array(LIMITS.layers + 1) };
    const losses = { name: 'losses', shape: [1], values: Float32Array.of(1) };
    expectProblem(await solve([losses, grams]), {
      status: 422,
      code: 'step_too_large',
      param: 'grams',
      mentions: ['513', '512'],
    });
    const many = await solve(identities(1500, 6));
    expectProblem(many, {
      status: 422,
      code: 'step_too_large',
      param: 'losses',
      mentions: ['6 factorisations of 1500×1500'],
    });
  });

  it('what only the worker sees: an indefinite matrix of a large batch', async () => {
    const tensors = identities(220, 1);
    tensors[1]!.values[1] = 1e4;
    expectProblem(await solve(tensors), {
      status: 422,
      code: 'numerical_failure',
      param: 'grams',
      mentions: ['stage 0'],
    });
  });

  it('JSON that is too long for it', async () => {
    const long = JSON.stringify({ losses: new Array(40_000).fill(1), grams: [[1]] });
    const problem = expectProblem(await solveJson(long), { status: 413, code: 'body_too_large', mentions: ['65536'] });
    expect(problem.remedy).toContain(SAFETENSORS_CONTENT_TYPE);
  });
});
