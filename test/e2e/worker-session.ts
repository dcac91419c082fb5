/** A worker as its own process, without an edge, and a session at it: for what must survive the process. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { problemSchema, type Problem, type ProblemCode } from '../../shared/errors.ts';
import { seededRandom } from '../../shared/random.ts';
import {
  newSessionId,
  sessionDefinitionSchema,
  sessionSchema,
  type Session,
  type SessionDefinitionInput,
  type SessionId,
} from '../../shared/session.ts';
import { randomStep } from '../conformance/bodies.ts';
import { call, json, type Answer } from './support.ts';

export function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'ddpnopt-'));
  onTestFinished(() => {
    rmSync(path, { recursive: true, force: true });
  });
  return path;
}

interface Settings {
  readonly storage: string;
  readonly port?: number;
  readonly settings?: Readonly<Record<string, string>>;
}

export async function start({ storage, port = 0, settings = {} }: Settings): Promise<ServiceProcess> {
  const worker = await startWorker({ port, engine: 'reference', storage, settings });
  onTestFinished(() => worker.kill());
  return worker;
}

export const portOf = ({ ready }: ServiceProcess): number => Number(new URL(ready.url).port);

export function bodiesOf(definition: SessionDefinitionInput, seed: number, count: number): Uint8Array<ArrayBuffer>[] {
  const random = seededRandom(seed);
  const complete = sessionDefinitionSchema.parse(definition);
  return Array.from({ length: count }, (_, n) => randomStep(complete, random, n));
}

/** A session at a worker, without an edge between. */
export class WorkerSession {
  readonly url: string;
  readonly id: SessionId;

  constructor(url: string, id = newSessionId()) {
    this.url = url;
    this.id = id;
  }

  async create(order: unknown): Promise<void> {
    const answer = await call(this.url, 'PUT', `/sessions/${this.id}`, { body: JSON.stringify(order) });
    expect(answer.status).toBe(201);
  }

  step(n: number, body: Uint8Array<ArrayBuffer>): Promise<Answer> {
    return call(this.url, 'PUT', `/sessions/${this.id}/steps/${n}`, { body });
  }

  async describe(): Promise<Session> {
    const answer = await call(this.url, 'GET', `/sessions/${this.id}`);
    expect(answer.status).toBe(200);
    return sessionSchema.parse(json(answer));
  }

  /** All there is to know of the state that a client can ask for. */
  async state(): Promise<{ readonly nextStep: number; readonly metrics: unknown; readonly weights: string }> {
    const { nextStep, metrics, mode } = await this.describe();
    const weights = mode === 'hosted' ? await call(this.url, 'GET', `/sessions/${this.id}/weights`) : null;
    return { nextStep, metrics, weights: weights === null ? '' : text(weights) };
  }
}

export const text = ({ bytes }: Answer): string => Buffer.from(bytes).toString('base64');

export function problemOf(answer: Answer, code: ProblemCode, status: number): Problem {
  const problem = problemSchema.parse(json(answer));
  expect(problem).toMatchObject({ code, status });
  expect(answer.status).toBe(status);
  return problem;
}
