/**
 * The JavaScript client shares its types with the schemas that the OpenAPI document is made of. Here types are made of the document
 * as it is served, as any other client would have them made, and each body's type must be assignable to the client's, and back.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import openapiTS, { astToString } from 'openapi-typescript';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { fetchDocument, operationsOf, type Document } from './openapi.ts';

const ROOT = path.join(import.meta.dirname, '../..');

/** Where each body's schema stands in `shared`, by its name in the document. */
const REQUESTS = {
  SessionOrder: 'session-order.ts sessionOrderSchema',
  SessionChanges: 'session-changes.ts sessionChangesSchema',
  StepCommit: 'step-parts.ts commitSchema',
  EstimateOrder: 'estimate.ts estimateOrderSchema',
  ApiKeyOrder: 'access.ts apiKeyOrderSchema',
  TenantLimits: 'access.ts tenantLimitsSchema',
  RunOrder: 'run.ts runOrderSchema',
};
const REPLIES = {
  Capabilities: 'capabilities.ts capabilitiesSchema',
  Session: 'session.ts sessionSchema',
  SessionList: 'session-list.ts sessionListSchema',
  StepMetrics: 'session.ts stepMetricsSchema',
  StepParts: 'step-parts.ts stepPartsSchema',
  SessionEvent: 'session-events.ts sessionEventSchema',
  Checkpoint: 'checkpoint.ts checkpointSchema',
  CheckpointList: 'checkpoint.ts checkpointListSchema',
  Estimate: 'estimate.ts estimateSchema',
  UsageList: 'access.ts usageListSchema',
  NewApiKey: 'access.ts newApiKeySchema',
  ApiKeyList: 'access.ts apiKeyListSchema',
  TenantLimits: 'access.ts tenantLimitsSchema',
  WorkerList: 'access.ts workerListSchema',
  Problem: 'errors.ts problemSchema',
  DataSet: 'data-set.ts dataSetSchema',
  Run: 'run.ts runSchema',
  RunEvent: 'run.ts runEventSchema',
  RunList: 'run.ts runListSchema',
};
/** They describe what a request has ordered, by the request's own schemas, in which what has a default may be missing. */
const DESCRIBED = ['Session', 'Run', 'RunEvent', 'RunList'];
/** Health and tensors in JSON: no schemas of the client's, which has no use for either. */
const OTHERS = ['Status', 'Tensors'];

let edge: ServiceProcess;
let document: Document;
let folder: string;
beforeAll(async () => {
  // The document is the edge's own; no worker is asked.
  edge = await startEdge({ port: 0, workerUrl: 'http://127.0.0.1:9', runtime: 'node' });
  document = await fetchDocument(edge.ready.url);
  folder = await mkdtemp(path.join(tmpdir(), 'openapi-types-'));
});
afterAll(async () => {
  await edge.stop();
  await rm(folder, { recursive: true });
});

/** The names of schemas that a body's content refers to. */
function namesIn(content: unknown): string[] {
  const found = JSON.stringify(content ?? {}).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g);
  return [...found].map(([, name]) => name!);
}

it('every body in JSON is compared', () => {
  const operations = operationsOf(document).map(({ operation }) => operation);
  const requests = operations.flatMap(({ requestBody }) => namesIn(requestBody?.content));
  const replies = operations.flatMap(({ responses }) =>
    Object.values(responses).flatMap(({ content }) => namesIn(content)),
  );
  expect(new Set(requests.filter((name) => !OTHERS.includes(name)))).toEqual(new Set(Object.keys(REQUESTS)));
  expect(new Set(replies.filter((name) => !OTHERS.includes(name)))).toEqual(new Set(Object.keys(REPLIES)));
});

/** A program that compiles only if the types are the same: a line for each, so that the compiler names those that are not. */
function comparison(schemas: Readonly<Record<string, string>>, direction: 'input' | 'output', module: string): string {
  const lines = Object.entries(schemas).map(([name, place]) => {
    const [file, schema] = place.split(' ');
    const ours = `Plain<z.${direction}<(typeof import('${ROOT}/shared/${file!}'))['${schema!}']>>`;
    const theirs = `Plain<import('./${module}.ts').components['schemas']['${name}']>`;
    return DESCRIBED.includes(name)
      ? `  ${name}: Same<Complete<${ours}>, Complete<${theirs}>>;`
      : `  ${name}: Same<${ours}, ${theirs}>;`;
  });
  return `
import type * as z from '${ROOT}/node_modules/zod/index.js';

/** Identifiers are branded here, which no document can say: of strings only literals stay what they are. */
type Plain<T> = T extends string ? ({} extends Record<T, 1> ? string : T) : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
/** In the description of what was ordered nothing is missing. */
type Complete<T> = T extends object ? { [K in keyof T]-?: Complete<T[K]> } : T;
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : { 'the document says more': B; 'than the client': A }) : { 'the client has': A; 'the document': B };

interface Comparisons {
${lines.join('\n')}
}
export const comparisons: Comparisons = {
${Object.keys(schemas)
  .map((name) => `  ${name}: true,`)
  .join('\n')}
};
`;
}

it('the types of the document are the client’s, for requests and for replies', async () => {
  // What has a default may be left out of a request, and is never missing in a reply.
  for (const [module, defaultNonNullable] of [
    ['requests', false],
    ['replies', true],
  ] as const) {
    const types = await openapiTS(structuredClone(document) as never, { defaultNonNullable });
    await writeFile(path.join(folder, `${module}.ts`), astToString(types));
  }
  await writeFile(path.join(folder, 'compare-requests.ts'), comparison(REQUESTS, 'input', 'requests'));
  await writeFile(path.join(folder, 'compare-replies.ts'), comparison(REPLIES, 'output', 'replies'));
  await writeFile(path.join(folder, 'package.json'), '{"type": "module"}');
  const configuration = {
    extends: path.join(ROOT, 'tsconfig.base.json'),
    // zod's `a?: T | undefined` is the document's `a?: T`.
    compilerOptions: { types: [], lib: ['es2024', 'dom'], exactOptionalPropertyTypes: false, noUnusedLocals: false },
    files: ['compare-requests.ts', 'compare-replies.ts'],
  };
  await writeFile(path.join(folder, 'tsconfig.json'), JSON.stringify(configuration));
  const compiler = path.join(ROOT, 'node_modules/typescript/bin/tsc');
  const output = await promisify(execFile)(process.execPath, [compiler, '-p', folder]).then(
    () => '',
    (error: unknown) => (error as { stdout: string }).stdout,
  );
  expect(output).toBe('');
});
