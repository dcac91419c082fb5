/** The OpenAPI document as the tests read it. */
import { expect } from 'vitest';
import { call, json } from './support.ts';

export interface Content {
  readonly schema: unknown;
  readonly example?: unknown;
  readonly examples?: Readonly<Record<string, { readonly summary: string; readonly value: unknown }>>;
}

export interface Response {
  readonly description: string;
  readonly headers?: Readonly<Record<string, unknown>>;
  readonly content?: Readonly<Record<string, Content>>;
}

export interface Parameter {
  readonly name?: string;
  readonly in?: string;
  readonly required?: boolean;
  readonly schema?: unknown;
  readonly $ref?: string;
}

export interface Operation {
  readonly operationId?: string;
  readonly summary?: string;
  readonly description?: string;
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly required?: boolean; readonly content: Readonly<Record<string, Content>> };
  readonly security?: unknown;
  readonly responses: Readonly<Record<string, Response>>;
}

export interface Schema {
  readonly properties?: Record<string, Schema & { default?: unknown }>;
  readonly [keyword: string]: unknown;
}

export interface Document {
  readonly openapi: string;
  readonly info: { readonly title: string; readonly version: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>>; readonly securitySchemes?: unknown };
}

export async function fetchDocument(url: string): Promise<Document> {
  const answer = await call(url, 'GET', '/openapi.json');
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toMatch(/^application\/json/);
  return json(answer) as Document;
}

export function operationsOf({ paths }: Document): { path: string; method: string; operation: Operation }[] {
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
}

const escaped = (key: string): string => encodeURIComponent(key.replaceAll('~', '~0').replaceAll('/', '~1'));

/** Where the schema of an answer stands in the document, which is called `document`. */
export function schemaAt(path: string, method: string, status: string, type: string): string {
  return `document#/${['paths', path, method, 'responses', status, 'content', type, 'schema'].map(escaped).join('/')}`;
}
