/** GET /openapi.json and /docs. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { PROBLEMS } from '../../shared/errors.ts';
import { Validator, type SpecData } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { API_VERSION_HEADER, LATEST_API_VERSION } from '../../shared/api-version.ts';
import { fetchDocument, operationsOf, type Document, type Operation } from './openapi.ts';
import { call, expectProblem, json } from './support.ts';

let edge: ServiceProcess;
let document: Document;
let operations: { name: string; operation: Operation }[];
beforeAll(async () => {
  edge = await startEdge({ port: 0, workerUrl: 'http://127.0.0.1:9' });
  document = await fetchDocument(edge.ready.url);
  operations = operationsOf(document).map(({ path, method, operation }) => ({ name: `${method} ${path}`, operation }));
});
afterAll(() => edge.stop());

describe('/openapi.json', () => {
  it('is valid OpenAPI 3.1', async () => {
    const { valid, errors } = await new Validator().validate(JSON.parse(JSON.stringify(document)) as SpecData);
    expect(errors).toBeUndefined();
    expect(valid).toBe(true);
  });

  it('names every operation, and the headers that come with every answer', () => {
    const names = operations.map(({ operation }) => operation.operationId);
    expect(new Set(names).size).toBe(operations.length);
    expect(names).toContain('putSessionStep');
    for (const { name, operation } of operations) {
      for (const [status, { headers }] of Object.entries(operation.responses)) {
        expect(Object.keys(headers!), `${name} ${status}`).toContain('X-Request-Id');
        expect(Object.keys(headers!).includes('DDPNOpt-Version'), name).toBe(name.includes('/v1/'));
      }
    }
  });

  it('shows an example of every JSON body that is sent, and every example is of the form beside it', () => {
    const schemas = new Ajv2020({ strict: false, validateFormats: false });
    schemas.addSchema(document, 'document');
    let count = 0;
    for (const { name, operation } of operations) {
      const bodies = Object.entries(operation.requestBody?.content ?? {});
      const answers = Object.values(operation.responses).flatMap(({ content }) => Object.entries(content ?? {}));
      for (const [type, { schema, example, examples = {} }] of [...bodies, ...answers]) {
        const shown = [
          ...(example === undefined ? [] : [example]),
          ...Object.values(examples).map(({ value }) => value),
        ];
        if (type !== 'application/json') continue;
        if (bodies.some(([, content]) => content.schema === schema)) expect(shown.length, name).toBeGreaterThan(0);
        const own = JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"document#/')) as object;
        const validate = schemas.compile(own);
        for (const each of shown) expect(validate(each), `${name}: ${JSON.stringify(validate.errors)}`).toBe(true);
        count += shown.length;
      }
    }
    expect(count).toBeGreaterThan(10);
  });

  it('lists every resource', () => {
    expect(document.openapi).toMatch(/^3\.1\./);
    expect(document.info).toMatchObject({
      title: 'DDPNOpt',
      version: LATEST_API_VERSION,
    });
    expect(operations.map(({ name }) => name).toSorted()).toEqual([
      'delete /v1/admin/keys/{id}',
      'delete /v1/checkpoints/{id}',
      'delete /v1/sessions/{id}',
      'delete /v1/sessions/{id}/data',
      'delete /v1/sessions/{id}/runs/{n}',
      'delete /v1/sessions/{id}/steps/{n}',
      'delete /v1/sessions/{id}/steps/{n}/parts',
      'delete /v1/sessions/{id}/steps/{n}/parts/{k}',
      'get /healthz',
      'get /metrics',
      'get /readyz',
      'get /v1/admin/keys',
      'get /v1/admin/tenants/{tenant}/limits',
      'get /v1/admin/usage',
      'get /v1/admin/workers',
      'get /v1/capabilities',
      'get /v1/checkpoints/{id}',
      'get /v1/sessions',
      'get /v1/sessions/{id}',
      'get /v1/sessions/{id}/checkpoints',
      'get /v1/sessions/{id}/data',
      'get /v1/sessions/{id}/events',
      'get /v1/sessions/{id}/runs',
      'get /v1/sessions/{id}/runs/{n}',
      'get /v1/sessions/{id}/steps/{n}',
      'get /v1/sessions/{id}/steps/{n}/parts',
      'get /v1/sessions/{id}/weights',
      'get /v1/usage',
      'patch /v1/sessions/{id}',
      'post /v1/admin/keys',
      'post /v1/checkpoints',
      'post /v1/estimates',
      'post /v1/kernel/solve',
      'post /v1/sessions',
      'post /v1/sessions/{id}/checkpoints',
      'post /v1/sessions/{id}/predictions',
      'post /v1/sessions/{id}/steps/{n}/commit',
      'put /v1/admin/tenants/{tenant}/limits',
      'put /v1/sessions/{id}/data/{k}',
      'put /v1/sessions/{id}/runs/{n}',
      'put /v1/sessions/{id}/steps/{n}',
      'put /v1/sessions/{id}/steps/{n}/parts/{k}',
    ]);
  });

  it('summarises every operation and describes its answers, good and bad', () => {
    for (const { name, operation } of operations) {
      expect(operation.summary, name).toBeTruthy();
      const statuses = Object.keys(operation.responses);
      expect(
        statuses.some((status) => status.startsWith('2')),
        name,
      ).toBe(true);
      if (name !== 'get /healthz')
        expect(
          statuses.some((status) => /^[45]/.test(status)),
          name,
        ).toBe(true);
      for (const [status, response] of Object.entries(operation.responses)) {
        expect(response.description, `${name} ${status}`).toBeTruthy();
        if (!/^[45]/.test(status)) continue;
        expect(response.content, `${name} ${status}`).toEqual({
          'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } },
        });
      }
    }
  });

  it('declares every variable of a path as a parameter, and no other', () => {
    for (const { name, operation } of operations) {
      const variables = [...name.matchAll(/\{(\w+)\}/g)].map(([, variable]) => variable);
      const parameters = operation.parameters ?? [];
      expect(parameters.filter((parameter) => parameter.in === 'path').map((parameter) => parameter.name)).toEqual(
        variables,
      );
      expect(
        parameters.every((parameter) => parameter.in !== 'path' || parameter.required),
        name,
      ).toBe(true);
    }
  });

  it('says how the numbers and names in a path are written', () => {
    const patternOf = (name: string, parameter: string): string => {
      const { schema } = operations
        .find((each) => each.name === name)!
        .operation.parameters!.find((each) => each.in === 'path' && each.name === parameter)!;
      return (schema as { readonly pattern: string }).pattern;
    };
    const part = 'put /v1/sessions/{id}/steps/{n}/parts/{k}';
    for (const [pattern, good, bad] of [
      [patternOf(part, 'n'), ['0', '41', '9'.repeat(15)], ['', '-1', '1.5', '01', '1e3', '9'.repeat(16)]],
      [patternOf(part, 'k'), ['0', '7'], ['', '-1', '01', 'a']],
      [patternOf('put /v1/admin/tenants/{tenant}/limits', 'tenant'), ['research', 'a-1'], ['', '-a', 'A', 'ä']],
    ] as const) {
      const written = new RegExp(pattern, 'u');
      expect(good.every((text) => written.test(text))).toBe(true);
      expect(bad.some((text) => written.test(text))).toBe(false);
    }
  });

  it('names every code a client can meet where it meets it', () => {
    const codes = (name: string): string =>
      Object.values(operations.find((each) => each.name === name)!.operation.responses)
        .map(({ description }) => description)
        .join();
    for (const code of [
      'step_conflict',
      'step_out_of_order',
      'queue_full',
      'numerical_failure',
      'worker_unavailable',
    ]) {
      expect(codes('put /v1/sessions/{id}/steps/{n}')).toContain(`\`${code}\``);
    }
    // Whatever calls the worker can get an answer from something else.
    const withWorker = operations.filter(
      ({ name }) => name.includes('/v1/') && !/ \/v1\/(admin\/|usage$|capabilities$|estimates$)/.test(name),
    );
    for (const { name } of withWorker) expect(codes(name), name).toContain('`worker_protocol`');
    expect(document.components.schemas['Problem']!.properties!['code']!['enum']).toEqual(Object.keys(PROBLEMS));
  });

  it('says which scope a key must have, and how one is refused, wherever a key is asked for', () => {
    expect(document.components.securitySchemes).toMatchObject({ apiKey: { type: 'http', scheme: 'bearer' } });
    for (const { name, operation } of operations) {
      if (/ \/(healthz|readyz|v1\/capabilities)$/.test(name)) {
        expect(operation.security, name).toBeUndefined();
        continue;
      }
      expect(operation.security, name).toEqual([{ apiKey: [expect.stringMatching(/^[a-z:]+$/)] }]);
      for (const [status, code] of Object.entries({ 401: 'unauthenticated', 403: 'forbidden', 429: 'rate_limited' })) {
        expect(operation.responses[status]!.description, name).toContain(`\`${code}\``);
      }
    }
    const scopes = (name: string): unknown => operations.find((each) => each.name === name)!.operation.security;
    expect(scopes('put /v1/sessions/{id}/steps/{n}')).toEqual([{ apiKey: ['sessions:write'] }]);
    expect(scopes('get /v1/sessions/{id}/checkpoints')).toEqual([{ apiKey: ['checkpoints'] }]);
    expect(scopes('get /v1/admin/keys')).toEqual([{ apiKey: ['admin'] }]);
  });

  it('says what hosted mode takes, gives and refuses', () => {
    const operation = (name: string): Operation => operations.find((each) => each.name === name)!.operation;
    const SAFETENSORS = 'application/vnd.safetensors';
    const step = operation('put /v1/sessions/{id}/steps/{n}');
    const predictions = operation('post /v1/sessions/{id}/predictions');
    const weights = operation('get /v1/sessions/{id}/weights');
    for (const tensor of ['`x`', '`y`', '`sample_weights`']) expect(step.description).toContain(tensor);
    for (const tensor of ['`x`', '`y`']) expect(predictions.description).toContain(tensor);
    const BODIES = [SAFETENSORS, 'application/json'];
    for (const each of [step, predictions]) expect(Object.keys(each.requestBody!.content)).toEqual(BODIES);
    expect(Object.keys(step.responses['200']!.content!).toSorted()).toEqual(['application/json', SAFETENSORS]);
    expect(step.responses['200']!.content!['application/json']!.schema).toEqual({
      anyOf: [{ $ref: '#/components/schemas/StepMetrics' }, { $ref: '#/components/schemas/Tensors' }],
    });
    for (const each of [predictions, weights]) {
      expect(Object.keys(each.responses['200']!.content!)).toEqual(BODIES);
      expect(each.responses['409']!.description).toContain('`not_hosted`');
    }
    for (const word of ['`outputs`', 'evaluation mode', '`__metadata__.loss`']) {
      expect(predictions.responses['200']!.description).toContain(word);
    }
    for (const word of ['`layers.<name>.<parameter>`', '`running_mean`', '`__metadata__`', '`model`', '`step`']) {
      expect(weights.responses['200']!.description).toContain(word);
    }
    for (const code of ['non_finite_value', 'invalid_index', 'numerical_failure', 'step_too_large']) {
      expect(predictions.responses['422']!.description).toContain(`\`${code}\``);
    }
    // The first state of a session is made in its turn.
    expect(operation('post /v1/sessions').responses['429']!.description).toContain('`queue_full`');
  });

  it('resolves every reference', () => {
    const references = new Set<string>();
    const visit = (value: unknown): void => {
      if (typeof value !== 'object' || value === null) return;
      for (const [key, child] of Object.entries(value)) {
        if (key === '$ref') references.add(String(child));
        else visit(child);
      }
    };
    visit(document);
    expect(references.size).toBeGreaterThan(5);
    for (const reference of references) {
      const [root, ...keys] = reference.split('/');
      expect(root).toBe('#');
      let target: unknown = document;
      for (const key of keys)
        target = (target as Record<string, unknown>)[key.replaceAll('~1', '/').replaceAll('~0', '~')];
      expect(target, reference).toBeTypeOf('object');
    }
  });

  it('states the defaults and the ranges of a session', () => {
    const schema = (name: string) => document.components.schemas[name]!.properties!;
    expect(schema('KroneckerMetric')).toMatchObject({
      damping: { default: 0.01, exclusiveMinimum: 0, maximum: 1e6 },
      decay: { default: 0.95, minimum: 0, exclusiveMaximum: 1 },
      refreshEvery: { default: 10, minimum: 1, maximum: 100_000 },
    });
    expect(schema('ConstantLearningRate')).toMatchObject({ value: { default: 10, exclusiveMinimum: 0, maximum: 1e6 } });
    expect(schema('GradientCurvature')['lossScale']!.properties).toMatchObject({
      floor: { default: 0.5, exclusiveMinimum: 0, maximum: 1e6 },
      ceiling: { default: 100, exclusiveMinimum: 0, maximum: 1e6 },
    });
    expect(schema('DenseLayer')).toMatchObject({
      inputs: { minimum: 1, maximum: 16_384 },
      outputs: { minimum: 1, maximum: 16_384 },
      bias: { default: true },
    });
    expect(schema('HostedDefinition')).toMatchObject({
      seed: { default: 0, minimum: 0, maximum: 2 ** 32 - 1 },
      ttlSeconds: { default: 3600, minimum: 10, maximum: 86_400 },
    });
    expect(schema('Model')).toMatchObject({ layers: { minItems: 1, maxItems: 512 } });
    expect(schema('LayersDefinition')).toMatchObject({
      layers: { minItems: 1, maxItems: 512 },
      ttlSeconds: { default: 3600, minimum: 10, maximum: 86_400 },
      mode: { default: 'layers' },
    });
    expect(document.components.schemas['Coupling']).toMatchObject({
      enum: ['layerwise', 'value', 'gauss-newton-step', 'feedback'],
      default: 'feedback',
    });
    expect(document.components.schemas['ReplyForm']).toMatchObject({ default: 'auto' });
    const query = operations.find(({ name }) => name === 'post /v1/kernel/solve')!.operation.parameters!;
    expect(query.find(({ name }) => name === 'learningRate')).toMatchObject({
      in: 'query',
      required: false,
      schema: { type: 'number', exclusiveMinimum: 0, maximum: 1e6, default: 10 },
    });
  });

  it('asks of a request only what has no default', () => {
    expect(document.components.schemas['LayersDefinition']!['required']).toEqual(['layers']);
    expect(document.components.schemas['KernelDefinition']!['required']).toEqual(['mode', 'layers']);
    expect(document.components.schemas['KernelLayer']!['required']).toEqual(['name']);
    expect(document.components.schemas['HostedDefinition']!['required']).toEqual(['mode', 'model', 'loss']);
    expect(document.components.schemas['DenseLayer']!['required']).toEqual(['name', 'kind', 'inputs', 'outputs']);
  });
});

describe('versions', () => {
  it('are stated by every answer, and refused by name if there is no such', async () => {
    const { url } = edge.ready;
    const ask = (version?: string): Promise<Response> =>
      fetch(
        new URL('/v1/capabilities', url),
        version === undefined ? {} : { headers: { [API_VERSION_HEADER]: version } },
      );
    for (const version of [undefined, LATEST_API_VERSION]) {
      const answer = await ask(version);
      expect(answer.status).toBe(200);
      expect(answer.headers.get(API_VERSION_HEADER)).toBe(LATEST_API_VERSION);
      expect(await answer.json()).toMatchObject({
        apiVersions: [LATEST_API_VERSION],
        latestApiVersion: LATEST_API_VERSION,
      });
    }
    const refused = await ask('1999-01-01');
    const bytes = new Uint8Array(await refused.arrayBuffer());
    expectProblem(
      { status: refused.status, headers: refused.headers, bytes },
      {
        status: 400,
        code: 'unsupported_api_version',
        param: API_VERSION_HEADER,
        mentions: ['"1999-01-01"', LATEST_API_VERSION],
      },
    );
  });

  it('are stated with errors, too', async () => {
    const answer = await call(edge.ready.url, 'GET', '/v1/sessions/ses_none');
    expect(answer.status).toBe(404);
    expect(answer.headers.get(API_VERSION_HEADER)).toBe(LATEST_API_VERSION);
  });
});

describe('/v1/capabilities', () => {
  it('names what the schemas take', async () => {
    const capabilities = json(await call(edge.ready.url, 'GET', '/v1/capabilities'));
    expect(capabilities).toMatchObject({
      modes: ['layers', 'kernel', 'hosted'],
      layers: expect.arrayContaining(['dense', 'conv2d', 'embedding', 'generic']) as string[],
      modelLayers: expect.arrayContaining(['dense', 'relu', 'residual']) as string[],
      metrics: expect.arrayContaining(['identity', 'kronecker', 'ekfac']) as string[],
      couplings: ['layerwise', 'value', 'gauss-newton-step', 'feedback'],
      limits: { bodyBytes: 100_000_000, ttlSeconds: { default: 3600 } },
    });
  });
});

describe('/problems/{code}', () => {
  it('is a page for every code', async () => {
    for (const [code, { title }] of Object.entries(PROBLEMS)) {
      const page = await call(edge.ready.url, 'GET', `/problems/${code}`);
      expect(page.status, code).toBe(200);
      expect(page.headers.get('content-type')).toMatch(/^text\/html/);
      const html = new TextDecoder().decode(page.bytes);
      for (const word of [code, title.replaceAll("'", '&#39;')]) expect(html).toContain(word);
    }
    const page = await call(edge.ready.url, 'GET', '/problems/step_conflict');
    expect(new TextDecoder().decode(page.bytes)).toContain('PUT /v1/sessions/{id}/steps/{n}');
    expect((await call(edge.ready.url, 'GET', '/problems/nonsense')).status).toBe(404);
  });
});

describe('/docs', () => {
  it('is a page whose assets are there', async () => {
    const page = await call(edge.ready.url, 'GET', '/docs');
    expect(page.status).toBe(200);
    expect(page.headers.get('content-type')).toMatch(/^text\/html/);
    const html = new TextDecoder().decode(page.bytes);
    expect(html).toContain('/openapi.json');
    const assets = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path!);
    expect(assets).toHaveLength(3);
    const types = { css: 'text/css', js: /javascript/, png: 'image/png' } as const;
    for (const path of assets) {
      const asset = await call(edge.ready.url, 'GET', path);
      expect(asset.status, path).toBe(200);
      expect(asset.headers.get('content-type'), path).toMatch(types[path.split('.').at(-1) as keyof typeof types]);
      expect(asset.bytes.length, path).toBeGreaterThan(100);
    }
  });

  it('serves nothing else of the assets’ folder', async () => {
    for (const path of ['/docs/package.json', '/package.json', '/index.html', '/docs/..%2Fpackage.json']) {
      expect((await call(edge.ready.url, 'GET', path)).status, path).toBe(404);
    }
  });
});
