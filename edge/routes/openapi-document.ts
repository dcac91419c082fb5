/** The OpenAPI document: the routes', with what holds for every operation. */
import type { OpenAPIHono } from '@hono/zod-openapi';
import {
  API_VERSION_HEADER,
  API_VERSIONS,
  LATEST_API_VERSION,
  UNSTATED_API_VERSION,
} from '../../shared/api-version.ts';
import { ALL_SCOPES } from '../../shared/access.ts';
import { PROBLEM_CONTENT_TYPE, PROBLEMS, type ProblemCode } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { scopeOf } from '../access/scopes.ts';
import type { EdgeEnv } from '../environment.ts';
import { ACCESS_PROBLEMS } from './problem-responses.ts';

/** Of the document what is read and completed here. The library's own types allow references where its generator makes none. */
export interface OpenApiDocument {
  readonly paths: Readonly<Record<string, Readonly<Partial<Record<Method, Operation>>>>>;
  components: Record<string, unknown> & { readonly schemas: Readonly<Record<string, ComponentSchema>> };
}

interface ComponentSchema {
  readonly oneOf?: readonly unknown[];
  discriminator?: { readonly mapping: Readonly<Record<string, string>> };
}

export interface Operation {
  readonly summary: string;
  operationId?: string;
  parameters?: readonly object[];
  security?: readonly object[];
  readonly responses: Record<string, Response>;
}

interface Response {
  description: string;
  content?: object;
  headers?: Readonly<Record<string, object>>;
}

const METHODS = ['get', 'put', 'post', 'patch', 'delete'] as const;
type Method = (typeof METHODS)[number];

const megabytes = (bytes: number): string => `${String(bytes / 1e6)} MB`;

const INFO = {
  openapi: '3.1.0',
  info: {
    title: 'DDPNOpt',
    version: LATEST_API_VERSION,
    license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    description: `
Differential dynamic programming as an optimizer for neural networks, over HTTP. Create a session with the layers of your network; for
each mini-batch send what your forward and backward pass computed; apply the reply.

**Tensors** travel as [safetensors](https://github.com/huggingface/safetensors); up to ${String(LIMITS.jsonTensorBytes / 1024)} KiB also as JSON, \`{"losses": [0.5, 0.2]}\`.

**Errors** are RFC 9457 problem documents, whose \`code\` is stable, whose \`detail\` names the field and the value, and whose \`remedy\`
says what to do. What is \`retryable\` may be sent again as it is after \`Retry-After\` seconds; a step is applied once however often
it is sent.

**Limits**: ${megabytes(LIMITS.bodyBytes)} a request body, ${String(LIMITS.batch)} samples a batch, ${String(LIMITS.layers)} layers a session; \`GET /v1/capabilities\` has them for programs.

**Versions** are dates: send \`${API_VERSION_HEADER}: ${LATEST_API_VERSION}\`, the version that your program was written for. Within a version there are only
additions, so pass over fields that you do not know.

**Keys**: send \`Authorization: Bearer ddpnopt_…\`. A key is of a tenant, which sees its own sessions and checkpoints alone, and has scopes.
A service without an admin key asks for none, and answers on loopback alone.`.trim(),
  },
  tags: [
    { name: 'Sessions', description: 'What is trained, and how' },
    { name: 'Steps', description: 'One optimizer step on one mini-batch' },
    { name: 'Kernels', description: 'Systems of one batch without a session' },
    { name: 'Hosted models', description: 'Models that the service holds' },
    { name: 'Checkpoints', description: 'The complete state of a session as a file' },
    { name: 'Service', description: 'The service itself' },
    { name: 'Usage', description: 'What a tenant has taken' },
    { name: 'Administration', description: 'API keys, limits, and everybody’s usage' },
    { name: 'Health', description: 'For whoever runs the service' },
  ],
};

const COMPONENTS = {
  securitySchemes: {
    apiKey: {
      type: 'http',
      scheme: 'bearer',
      description: `An API key, \`ddpnopt_…\`. Each operation states which of the scopes ${ALL_SCOPES.join(', ')} it takes.`,
    },
  },
  headers: {
    RequestId: { description: 'Quote it when you report a problem', schema: { type: 'string' } },
    ApiVersion: { description: 'The version that was served', schema: { type: 'string', enum: [...API_VERSIONS] } },
    Location: { description: 'Path of what was made', schema: { type: 'string' } },
    RetryAfter: { description: 'Seconds until the same request may succeed', schema: { type: 'string' } },
  },
  parameters: {
    ApiVersion: {
      name: API_VERSION_HEADER,
      in: 'header',
      required: false,
      description: `The version that the client was written for; ${UNSTATED_API_VERSION} unless given`,
      schema: { type: 'string', enum: [...API_VERSIONS], default: UNSTATED_API_VERSION },
      example: LATEST_API_VERSION,
    },
  },
};

/** The document of the app's routes. */
export function openApiDocument(app: OpenAPIHono<EdgeEnv>): OpenApiDocument {
  const document = app.getOpenAPI31Document(INFO) as unknown as OpenApiDocument;
  document.components = { ...document.components, ...COMPONENTS };
  for (const schema of Object.values(document.components.schemas)) dropIncompleteDiscriminator(schema);
  for (const { method, path, operation } of operationsOf(document)) {
    const isVersioned = path.startsWith('/v1/');
    operation.operationId = operationId(method, path);
    if (isVersioned) {
      operation.parameters = [...(operation.parameters ?? []), reference('parameters', 'ApiVersion')];
      addProblem(operation.responses, 'unsupported_api_version');
    }
    const scope = scopeOf(method.toUpperCase(), path);
    if (scope !== null) {
      operation.security = [{ apiKey: [scope] }];
      for (const code of ACCESS_PROBLEMS) addProblem(operation.responses, code);
    }
    for (const [status, response] of Object.entries(operation.responses)) {
      response.headers = {
        ...response.headers,
        'X-Request-Id': reference('headers', 'RequestId'),
        ...(isVersioned ? { [API_VERSION_HEADER]: reference('headers', 'ApiVersion') } : {}),
        ...(mayBeRetried(status) ? { 'Retry-After': reference('headers', 'RetryAfter') } : {}),
        ...(status === '201' ? { Location: reference('headers', 'Location') } : {}),
      };
    }
  }
  return document;
}

/**
 * A discriminator's property must be there (OpenAPI 3.1, "Discriminator Object"), and what the mapping lacks has the name of its schema.
 * Where the property has a default the alternatives differ by what they take.
 */
function dropIncompleteDiscriminator(schema: ComponentSchema): void {
  const { oneOf, discriminator } = schema;
  if (discriminator !== undefined && Object.keys(discriminator.mapping).length !== oneOf?.length) {
    delete schema.discriminator;
  }
}

function addProblem(responses: Operation['responses'], code: ProblemCode): void {
  const { status, title } = PROBLEMS[code];
  const text = `\`${code}\`: ${title}`;
  const existing = responses[String(status)];
  if (existing?.description.includes(text) === true) return;
  if (existing !== undefined) existing.description += `; ${text}`;
  else
    responses[String(status)] = {
      description: text,
      content: { [PROBLEM_CONTENT_TYPE]: { schema: reference('schemas', 'Problem') } },
    };
}

export function operationsOf({ paths }: OpenApiDocument): { method: Method; path: string; operation: Operation }[] {
  return Object.entries(paths).flatMap(([path, item]) =>
    METHODS.flatMap((method) => {
      const operation = item[method];
      return operation === undefined ? [] : [{ method, path, operation }];
    }),
  );
}

function reference(kind: 'headers' | 'parameters' | 'schemas', name: string): object {
  return { $ref: `#/components/${kind}/${name}` };
}

/** PUT /v1/sessions/{id}/steps/{n} is putSessionStep: collections by their plural, members by their singular. */
function operationId(method: Method, path: string): string {
  const segments = path.replace(/^\/v1/, '').split('/').slice(1);
  const words = segments.flatMap((segment, index) => {
    if (segment.startsWith('{')) return [];
    const word = segments[index + 1]?.startsWith('{') === true ? segment.replace(/s$/, '') : segment;
    return [word.charAt(0).toUpperCase() + word.slice(1)];
  });
  return `${method}${words.join('')}`;
}

/** Whether some problem of that status is retryable. */
function mayBeRetried(status: string): boolean {
  return Object.values(PROBLEMS).some((problem) => String(problem.status) === status && problem.retryable);
}
