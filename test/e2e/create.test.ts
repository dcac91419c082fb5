/** POST /v1/sessions: what a definition may say, and what each wrong one is told. */
import { describe, expect, it } from 'vitest';
import { LIMITS } from '../../shared/limits.ts';
import { call, create, expectProblem, json, LAYERS, newSession } from './support.ts';
import { serveTests } from './stack.ts';

const MAXIMUM_SESSIONS = 3;

const stack = serveTests({ engine: 'reference', maximumSessions: MAXIMUM_SESSIONS });

it('fills in every default and says where the session is', async () => {
  const answer = await create(stack.url, { layers: LAYERS });
  expect(answer.status).toBe(201);
  expect(answer.headers.get('content-type')).toMatch(/^application\/json/);
  const session = json(answer) as { id: string; createdAt: string; expiresAt: string };
  expect(answer.headers.get('location')).toBe(`/v1/sessions/${session.id}`);
  expect(session).toMatchObject({
    id: expect.stringMatching(/^ses_[0-9a-f]{32}$/) as string,
    mode: 'layers',
    layers: [
      { name: 'fc1', kind: 'dense', inputs: 5, outputs: 4, bias: true },
      { name: 'fc2', kind: 'dense', inputs: 4, outputs: 3, bias: false },
    ],
    optimizer: {
      learningRate: { kind: 'leverage', value: 10, decay: 0.9, warmUpSteps: 10 },
      metric: { kind: 'kronecker', damping: 0.01, decay: 0.95, refreshEvery: 10 },
      terminalCurvature: { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 } },
      coupling: 'feedback',
    },
    reply: 'auto',
    ttlSeconds: 3600,
    nextStep: 0,
    metrics: null,
    engine: 'reference',
  });
  // Its time counts from when it is ready.
  const lifetime = Date.parse(session.expiresAt) - Date.parse(session.createdAt);
  expect(lifetime).toBeGreaterThanOrEqual(3_600_000);
  expect(lifetime).toBeLessThan(3_610_000);
  expect((await call(stack.url, 'DELETE', `/v1/sessions/${session.id}`)).status).toBe(204);
});

const [fc1, fc2] = LAYERS;
const kronecker = (option: object) => ({ layers: LAYERS, optimizer: { metric: { kind: 'kronecker', ...option } } });
const learningRate = (value: unknown) => ({ layers: LAYERS, optimizer: { learningRate: { kind: 'constant', value } } });
const lossScale = (option: object) => ({
  layers: LAYERS,
  optimizer: { terminalCurvature: { kind: 'gradient', lossScale: option } },
});
const layer = (option: object) => ({ layers: [{ ...fc1, ...option }, fc2] });

const RATE = 'optimizer.learningRate.value';
const METRIC = 'optimizer.metric';
const SCALE = 'optimizer.terminalCurvature.lossScale';

describe('a wrong definition', () => {
  it.each<{ title: string; definition: unknown; param?: string; mentions: readonly string[] }>([
    { title: 'null', definition: null, mentions: ['null'] },
    { title: 'an array', definition: [1], mentions: ['[1]'] },
    { title: 'a text', definition: 'layers', mentions: ['"layers"'] },
    { title: 'no layers', definition: {}, param: 'layers', mentions: ['layers', 'missing'] },
    {
      title: 'empty layers',
      definition: { layers: [] },
      param: 'layers',
      mentions: ['[]', 'a list of 1 to 512 items'],
    },
    {
      title: 'too many layers',
      definition: { layers: Array.from({ length: LIMITS.layers + 1 }, (_, i) => ({ ...fc1, name: `l${i}` })) },
      param: 'layers',
      mentions: ['512'],
    },
    {
      title: 'an unknown field',
      definition: { layers: LAYERS, momentum: 0.9 },
      param: 'momentum',
      mentions: ['momentum', '0.9'],
    },
    {
      title: 'an unknown field of a layer',
      definition: layer({ activation: 'relu' }),
      param: 'layers[0].activation',
      mentions: ['"relu"'],
    },
    {
      title: 'an unknown field of the metric',
      definition: kronecker({ dampening: 1 }),
      param: `${METRIC}.dampening`,
      mentions: ['1'],
    },
    {
      title: 'an unknown kind of layer',
      definition: layer({ kind: 'conv' }),
      param: 'layers[0].kind',
      mentions: ['"conv"', 'dense'],
    },
    {
      title: 'an unknown kind of metric',
      definition: { layers: LAYERS, optimizer: { metric: { kind: 'shampoo' } } },
      param: `${METRIC}.kind`,
      mentions: ['"shampoo"', 'identity', 'kronecker'],
    },
    {
      title: 'an unknown coupling',
      definition: { layers: LAYERS, optimizer: { coupling: 'full' } },
      param: 'optimizer.coupling',
      mentions: ['"full"', 'layerwise', 'value', 'feedback'],
    },
    {
      title: 'an unknown mode',
      definition: { layers: LAYERS, mode: 'parameters' },
      param: 'mode',
      mentions: ['"parameters"', 'layers'],
    },
    {
      title: 'a layer without a name',
      definition: layer({ name: undefined }),
      param: 'layers[0].name',
      mentions: ['missing'],
    },
    { title: 'an empty layer name', definition: layer({ name: '' }), param: 'layers[0].name', mentions: ['""'] },
    {
      title: 'a layer name with a space',
      definition: layer({ name: 'fc 1' }),
      param: 'layers[0].name',
      mentions: ['"fc 1"'],
    },
    {
      title: 'two layers of one name',
      definition: { layers: [fc1, { ...fc2, name: 'fc1' }] },
      param: 'layers[1].name',
      mentions: ['"fc1"', '0', '1'],
    },
    {
      title: 'a layer without inputs',
      definition: layer({ inputs: 0 }),
      param: 'layers[0].inputs',
      mentions: ['0', '1'],
    },
    {
      title: 'layers whose factors are too large to invert',
      definition: { layers: [{ ...fc1, inputs: 4096 }] },
      param: 'layers',
      mentions: ['6.9e+10', '1.7e+10', 'identity'],
    },
    { title: 'half a feature', definition: layer({ outputs: 1.5 }), param: 'layers[0].outputs', mentions: ['1.5'] },
    { title: 'features as text', definition: layer({ outputs: '4' }), param: 'layers[0].outputs', mentions: ['"4"'] },
    {
      title: 'too many features',
      definition: layer({ inputs: 16_385 }),
      param: 'layers[0].inputs',
      mentions: ['16385', 'a whole number from 1 to 16384'],
    },
    { title: 'a learning rate of 0', definition: learningRate(0), param: RATE, mentions: ['0'] },
    { title: 'a negative learning rate', definition: learningRate(-1), param: RATE, mentions: ['-1', '0'] },
    {
      title: 'a learning rate of 1e9',
      definition: learningRate(1e9),
      param: RATE,
      mentions: ['1000000000', 'a number greater than 0 and at most 1000000.'],
    },
    { title: 'a learning rate that is null', definition: learningRate(null), param: RATE, mentions: ['null'] },
    { title: 'a damping of 0', definition: kronecker({ damping: 0 }), param: `${METRIC}.damping`, mentions: ['0'] },
    {
      title: 'a decay of 1',
      definition: kronecker({ decay: 1 }),
      param: `${METRIC}.decay`,
      mentions: ['is 1: it takes a number from 0 to less than 1.'],
    },
    { title: 'a negative decay', definition: kronecker({ decay: -0.1 }), param: `${METRIC}.decay`, mentions: ['-0.1'] },
    {
      title: 'no refresh',
      definition: kronecker({ refreshEvery: 0 }),
      param: `${METRIC}.refreshEvery`,
      mentions: ['0', '1'],
    },
    {
      title: 'half a refresh',
      definition: kronecker({ refreshEvery: 2.5 }),
      param: `${METRIC}.refreshEvery`,
      mentions: ['is 2.5: it takes a whole number from 1 to 100000.'],
    },
    { title: 'a floor of 0', definition: lossScale({ floor: 0 }), param: `${SCALE}.floor`, mentions: ['0'] },
    {
      title: 'a floor over the ceiling',
      definition: lossScale({ floor: 7, ceiling: 2 }),

      mentions: ['7', '2', 'ceiling'],
    },
    { title: 'a ceiling under the default floor', definition: lossScale({ ceiling: 0.25 }), mentions: ['0.25', '0.5'] },
    {
      title: 'a life too short',
      definition: { layers: LAYERS, ttlSeconds: 9 },
      param: 'ttlSeconds',
      mentions: ['is 9: it takes a whole number from 10 to 86400.'],
    },
    {
      title: 'a life too long',
      definition: { layers: LAYERS, ttlSeconds: 86_401 },
      param: 'ttlSeconds',
      mentions: ['86401', '86400'],
    },
    {
      title: 'an update by feedback',
      definition: { layers: LAYERS, reply: 'update' },
      param: 'reply',
      mentions: ['"update"', 'feedback'],
    },
  ])('$title', async ({ definition, param, mentions }) => {
    const answer = await create(stack.url, definition);
    expectProblem(answer, { status: 422, code: 'invalid_parameter', param, mentions });
  });

  it('a learning rate that JSON reads as infinity', async () => {
    const text = JSON.stringify(learningRate('∞')).replace('"∞"', '1e999');
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body: text, type: 'application/json' });
    expectProblem(answer, { status: 422, code: 'invalid_parameter', param: RATE, mentions: ['Infinity'] });
  });

  it('a document nested too deep to be one', async () => {
    const text = `{"layers":${'['.repeat(100_000)}${']'.repeat(100_000)}}`;
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body: text, type: 'application/json' });
    expectProblem(answer, { status: 422, code: 'invalid_parameter', param: 'layers[0]' });
  });

  it('answers in a few lines, however long the field at fault is', async () => {
    const answer = await create(stack.url, { layers: LAYERS, ['x'.repeat(100_000)]: 'y'.repeat(100_000) });
    expectProblem(answer, { status: 422, code: 'invalid_parameter' });
    expect(answer.bytes.length).toBeLessThan(2_000);
  });
});

describe('a wrong body', () => {
  it.each(['{"layers": [', '{"layers": NaN}', 'layers', '', '{} {}'])('%j is not JSON', async (body) => {
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body, type: 'application/json' });
    expectProblem(answer, { status: 400, code: 'malformed_json' });
  });

  it.each(['text/plain', 'application/jsonp', 'application/vnd.safetensors'])('of type %s', async (type) => {
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body: '{}', type });
    expectProblem(answer, {
      status: 415,
      code: 'unsupported_media_type',
      param: 'Content-Type',
      mentions: [type],
    });
  });

  it('without a type', async () => {
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body: new TextEncoder().encode('{}') });
    expectProblem(answer, { status: 415, code: 'unsupported_media_type', mentions: ['no content type'] });
  });

  it('of another encoding’s parameter is JSON all the same', async () => {
    const answer = await call(stack.url, 'POST', '/v1/sessions', {
      body: '{}',
      type: 'Application/JSON; charset=utf-8',
    });
    expectProblem(answer, { status: 422, code: 'invalid_parameter', param: 'layers' });
  });

  it('without a length', async () => {
    const body = new Blob(['{}']).stream();
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body, type: 'application/json' });
    expectProblem(answer, { status: 411, code: 'length_required', param: 'Content-Length' });
  });

  it('over the limit', async () => {
    const body = JSON.stringify({ layers: LAYERS, padding: ' '.repeat(LIMITS.sessionDocumentBytes) });
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body, type: 'application/json' });
    expectProblem(answer, { status: 413, code: 'body_too_large', mentions: [String(body.length), '1048576'] });
  });
});

describe('a path or method that is not there', () => {
  it.each([
    ['GET', '/'],
    ['GET', '/v1/session'],
    ['GET', '/v1/sessions/'],
    ['POST', '/v1/sessions/ses_0123456789abcdef0123456789abcdef/steps'],
  ])('%s %s', async (method, path) => {
    expectProblem(await call(stack.url, method, path), {
      status: 404,
      code: 'route_not_found',
      mentions: [method, path],
    });
  });

  it.each([
    ['DELETE', '/v1/sessions'],
    ['PUT', '/v1/sessions/ses_0123456789abcdef0123456789abcdef'],
    ['POST', '/v1/sessions/ses_0123456789abcdef0123456789abcdef/steps/0'],
  ])('%s %s: the resource exists, the method does not', async (method, path) => {
    expectProblem(await call(stack.url, method, path), { status: 405, code: 'method_not_allowed', mentions: [method] });
  });
});

it('refuses a session more than the worker holds, until one is deleted', async () => {
  const held = [];
  for (let i = 0; i < MAXIMUM_SESSIONS; i++) held.push(await newSession(stack.url));
  const refused = await create(stack.url, { layers: LAYERS });
  expectProblem(refused, { status: 503, code: 'session_limit_reached', mentions: ['3 of 3'] });
  expect((await call(stack.url, 'DELETE', `/v1/sessions/${held[0]!.id}`)).status).toBe(204);
  const accepted = await newSession(stack.url);
  for (const { id } of [...held.slice(1), accepted]) await call(stack.url, 'DELETE', `/v1/sessions/${id}`);
});
