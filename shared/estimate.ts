/** What a session and its steps take, before anyone pays for them: the numbers that the service itself decides by. */
import * as z from 'zod';
import {
  batchCost,
  blocksOf,
  kernelRefreshWork,
  passCost,
  refreshWork,
  stepCost,
  trainingPasses,
  type Block,
} from './cost.ts';
import { ProblemError, problemSchema } from './errors.ts';
import { hostedStepTensors } from './hosted-tensors.ts';
import { kernelReplyForm, type KernelDefinition } from './kernel-definition.ts';
import { kernelStepTensors } from './kernel-tensors.ts';
import type { Layer } from './layer.ts';
import { replyForm, type LayersDefinition } from './layers-definition.ts';
import { LIMITS } from './limits.ts';
import { modelStages } from './model.ts';
import { sentColumns, type Optimizer } from './optimizer.ts';
import { hasVersions, policyEncodingOf } from './policy-encoding.ts';
import { elementBytes, layOut, type BodyPlan, type Dtype } from './safetensors.ts';
import { sessionDefinitionSchema, stateBytes, type SessionDefinition } from './session.ts';
import { elementCount } from './shape.ts';
import { checkStepHeader, expectedTensors, parameterShapes, stepBytes } from './step.ts';
import { triangleSize } from './triangle.ts';

export const estimateOrderSchema = z
  .strictObject({
    session: sessionDefinitionSchema,
    batch: z.int().min(1).max(65_536).meta({ description: 'B, samples of a step', example: 128 }),
    positions: z.record(z.string(), z.int().min(1).max(1_000_000)).default({}).meta({
      description: 'S by layer name, in mode `layers`, of layers over sequences and of embeddings; 1 unless given',
    }),
    sendAs: z
      .enum(['F32', 'F16', 'BF16'])
      .default('F32')
      .meta({ description: 'Element type in which the large tensors of a request travel' }),
  })
  .meta({
    id: 'EstimateOrder',
    description: 'A session that is not created, and the batch of a step that is not taken',
  });

export type EstimateOrder = z.output<typeof estimateOrderSchema>;
export type EstimateOrderInput = z.input<typeof estimateOrderSchema>;

const bytes = z.number();
const operations = z.number();

export const estimateSchema = z
  .object({
    request: z
      .object({
        bytes: bytes.meta({
          description:
            'Content-Length of a step with what it must carry, and with `metric_versions` where there are any',
        }),
        statisticsBytes: bytes.nullable().meta({
          description: 'Mode `kernel` with metric `kronecker`: of a step with factor statistics; else null',
        }),
      })
      .meta({ description: 'Up' }),
    reply: z
      .object({
        bytes: bytes.meta({ description: 'Of a reply’s tensors; its header adds some hundred bytes a layer' }),
        refreshedBytes: bytes.meta({ description: 'The same where all inverses come anew' }),
      })
      .meta({
        description: 'Down, with an engine in float32. Mode `hosted` answers some hundred bytes of JSON, counted as 0',
      }),
    memory: z
      .object({
        stateBytes: bytes.meta({
          description: 'The session’s state when it is largest: what counts towards the worker’s limit',
        }),
        stepBytes: bytes
          .nullable()
          .meta({ description: 'One step beside the state; null in mode `kernel`, where the request bounds it' }),
      })
      .meta({ description: 'On the worker, in float32' }),
    operations: z
      .object({
        passes: operations.meta({
          description:
            'Mode `hosted`: forward passes, each backward pass counted as two of them; else 0, since they are yours',
        }),
        tangentKernels: operations.meta({
          description: 'N_t of all layers, with the metric applied to what they are made of',
        }),
        systems: operations.meta({
          description:
            'L·R³/3 where the systems are factorised, L·R² times the iterations where they are solved by conjugate gradients',
        }),
        refresh: operations.meta({
          description:
            'Σ n³ + c³ over the factors, in steps that refresh the metric: every refreshEvery-th; with ekfac ten times that',
        }),
      })
      .meta({ description: 'Multiply-adds of one step, its largest terms; two floating-point operations each' }),
    accepted: z
      .boolean()
      .meta({ description: 'Whether such a session could take such a step, on a worker that holds no other' }),
    problems: z
      .array(problemSchema.pick({ code: true, param: true, detail: true, remedy: true }))
      .meta({ description: 'What it would be refused with' }),
  })
  .meta({ id: 'Estimate' });

export type Estimate = z.output<typeof estimateSchema>;

export function estimate(order: EstimateOrder): Estimate {
  const { session, batch, positions } = order;
  const places = new Map(Object.entries(positions));
  const request = requestPlan(order, false);
  const hasStatistics = session.mode === 'kernel' && session.optimizer.metric.kind === 'kronecker';
  const withStatistics = hasStatistics ? requestPlan(order, true) : null;
  const state = stateBytes(session);
  const problems = problemsOf(session, withStatistics ?? request, state);
  return {
    request: { bytes: request.length, statisticsBytes: withStatistics?.length ?? null },
    reply: { bytes: replyBytes(session, batch, false), refreshedBytes: replyBytes(session, batch, true) },
    memory: {
      stateBytes: state,
      stepBytes: session.mode === 'kernel' ? null : stepBytes(session, batch, places),
    },
    operations: operationsOf(session, batch, places),
    accepted: problems.length === 0,
    problems,
  };
}

/** The body of a step as the JavaScript client sends it, without what may be left out; or with a batch's statistics. */
function requestPlan({ session, batch, positions, sendAs }: EstimateOrder, withStatistics: boolean): BodyPlan {
  const tensors = tensorsOf(session, withStatistics).map(({ name, layer, shape, isLarge, isVersions }) => {
    const sizes = shape.map((axis) => {
      if (axis === 'B') return batch;
      if (axis === 'S') return positions[layer ?? ''] ?? 1;
      return typeof axis === 'object' ? triangleSize(axis.columns * batch) : axis;
    });
    const dtype: Dtype = isVersions ? 'F64' : isLarge ? sendAs : 'F32';
    return { name, dtype, shape: sizes };
  });
  return layOut(tensors.toSorted((a, b) => elementBytes(b.dtype) - elementBytes(a.dtype)));
}

interface SentTensor {
  readonly name: string;
  readonly layer: string | null;
  readonly shape: readonly ('B' | 'S' | number | { readonly columns: number })[];
  /** Whether it may travel in fewer digits: neither losses, nor whole numbers. */
  readonly isLarge: boolean;
  readonly isVersions: boolean;
}

function tensorsOf(session: SessionDefinition, withStatistics: boolean): SentTensor[] {
  switch (session.mode) {
    case 'layers': {
      const embeddings = new Set(session.layers.filter(({ kind }) => kind === 'embedding').map(({ name }) => name));
      return expectedTensors(session)
        .filter(({ role }) => role !== 'previousLosses')
        .map(({ name, layer, shape, role }) => ({
          name,
          layer,
          shape,
          isLarge: layer !== null && !(role === 'input' && embeddings.has(layer)),
          isVersions: role === 'metricVersions',
        }));
    }
    case 'kernel':
      return kernelStepTensors(session)
        .filter(({ role }) => role !== 'previousLosses')
        .filter(({ role }) => withStatistics || (role !== 'inputFactor' && role !== 'outputFactor'))
        .map(({ name, layer, shape, role }) => ({
          name,
          layer,
          shape,
          isLarge: layer !== null,
          isVersions: role === 'metricVersions',
        }));
    case 'hosted':
      return hostedStepTensors(session)
        .filter(({ presence }) => presence === 'required')
        .map(({ name, layer, shape }, index) => ({ name, layer, shape, isLarge: index === 0, isVersions: false }));
  }
}

/** What would be refused: the request, the session's state, the step. */
function problemsOf(session: SessionDefinition, request: BodyPlan, state: number): Estimate['problems'] {
  const found: ProblemError[] = [];
  if (request.length > LIMITS.bodyBytes) {
    found.push(
      new ProblemError('body_too_large', {
        param: 'batch',
        detail: `A step’s body would have ${String(request.length)} bytes; at most ${String(LIMITS.bodyBytes)} are taken.`,
        remedy: 'Take smaller batches, send narrower numbers, or send the step in parts.',
      }),
    );
  }
  if (state > LIMITS.stateBytes) {
    found.push(
      new ProblemError('session_limit_reached', {
        param: 'session',
        detail: `The session’s state would take ${String(state)} bytes; a worker has ${String(LIMITS.stateBytes)} for all of its sessions.`,
        remedy: 'Take narrower layers, or a metric with less state.',
      }),
    );
  }
  try {
    checkStepHeader(request.header, session);
  } catch (error) {
    if (!(error instanceof ProblemError)) throw error;
    found.push(error);
  }
  return found.map(({ code, details: { param, detail, remedy } }) => ({
    code,
    detail,
    remedy,
    ...(param === undefined ? {} : { param }),
  }));
}

const NARROW_BYTES = { full: 4, f16: 2, bf16: 2, int8: 1 } as const;

/** Of the tensors of a reply. */
function replyBytes(session: SessionDefinition, batch: number, isRefreshed: boolean): number {
  switch (session.mode) {
    case 'hosted':
      return 0;
    case 'layers':
      return layersReplyBytes(session, batch, isRefreshed);
    case 'kernel':
      return kernelReplyBytes(session, batch, isRefreshed);
  }
}

function layersReplyBytes(session: LayersDefinition, batch: number, isRefreshed: boolean): number {
  const { layers, optimizer, transport } = session;
  const narrow = NARROW_BYTES[transport.reply];
  const changed = (layer: Layer): number =>
    Object.values(parameterShapes(layer)).reduce((sum, shape) => sum + narrow * elementCount(shape), 0);
  if (replyForm(session) === 'update') return layers.reduce((sum, layer) => sum + changed(layer), 0);
  const versions = hasVersions(session) ? 4 * layers.length : 0;
  return layers.reduce((sum, layer) => {
    const { inputs, outputs, count, isFactored } = blocksOf(layer);
    const decay = optimizer.weightDecay === null || optimizer.weightDecay.rate === 0 ? 0 : changed(layer);
    const solver = solverBytes(optimizer, batch, batch) + decay;
    if (policyEncodingOf(session, layer, batch) === 'sample-factors')
      return sum + solver + narrow * batch * (inputs + outputs);
    const rate = 4;
    if (optimizer.metric.kind === 'identity') return sum + solver + rate;
    if (optimizer.metric.kind !== 'kronecker' || !isFactored) return sum + solver + rate + changed(layer);
    return sum + solver + rate + (isRefreshed ? 4 * count * (triangleSize(inputs) + triangleSize(outputs)) : 0);
  }, versions);
}

function kernelReplyBytes(session: KernelDefinition, batch: number, isRefreshed: boolean): number {
  const { layers, optimizer } = session;
  const rows = batch * Math.max(1, sentColumns(optimizer.terminalCurvature));
  const versions = optimizer.metric.kind === 'kronecker' ? 4 * layers.length : 0;
  const solution = kernelReplyForm(session) === 'factors' ? solverBytes(optimizer, batch, rows) : 4 * rows;
  return layers.reduce((sum, { factors }) => {
    const inverses =
      factors === null || !isRefreshed
        ? 0
        : factors.groups * (triangleSize(factors.inputs) + triangleSize(factors.outputs));
    return sum + 4 + solution + 4 * inverses;
  }, versions);
}

/** Of what κ is solved with, per layer. */
function solverBytes({ batchCoupling }: Pick<Optimizer, 'batchCoupling'>, batch: number, rows: number): number {
  return batchCoupling === 'full' ? 4 * (triangleSize(rows) + rows) : 4 * 2 * batch;
}

function operationsOf(
  session: SessionDefinition,
  batch: number,
  positions: ReadonlyMap<string, number>,
): Estimate['operations'] {
  const systems = ({ solution, batchWork }: ReturnType<typeof batchCost>): number =>
    solution === 'cholesky' ? batchWork / 3 : batchWork;
  if (session.mode === 'kernel') {
    const { layers, optimizer } = session;
    const handsOutFactors = kernelReplyForm(session) === 'factors';
    return {
      passes: 0,
      tangentKernels: 0,
      systems: systems(batchCost({ layers: layers.length, optimizer, handsOutFactors, carriesMatrices: false }, batch)),
      refresh: kernelRefreshWork(layers),
    };
  }
  const stages = session.mode === 'hosted' ? modelStages(session.model) : null;
  const layers = session.mode === 'layers' ? session.layers : (stages ?? []).map(({ layer }) => layer);
  const placed = stages === null ? positions : new Map(stages.map((stage) => [stage.layer.name, stage.positions]));
  const { optimizer } = session;
  const isPolicy = session.mode === 'layers' && replyForm(session) === 'policy';
  const rows = batch * Math.max(1, sentColumns(optimizer.terminalCurvature));
  return {
    passes: session.mode === 'hosted' ? passWork(session, batch) : 0,
    tangentKernels: layers.reduce(
      (sum, layer) => sum + kernelWork(blocksOf(layer), optimizer, batch, rows, placed.get(layer.name) ?? 1),
      0,
    ),
    systems: systems(stepCost({ layers, optimizer }, batch, isPolicy)),
    refresh: refreshWork({ layers, optimizer }),
  };
}

function passWork({ model, optimizer }: Extract<SessionDefinition, { mode: 'hosted' }>, batch: number): number {
  const { forward, backward } = trainingPasses(optimizer);
  // The second pass belongs to feedback alone.
  const passes = optimizer.coupling === 'feedback' ? forward : forward - 1;
  return (passes + 2 * backward) * passCost(model, { forward, backward }, batch).forwardWork;
}

/** Of one layer: samples brought into the metric's coordinates, and their products. */
function kernelWork(
  { inputs: n, outputs: c, isOuter, isFactored, count }: Block,
  { metric, batchCoupling }: Optimizer,
  batch: number,
  rows: number,
  positions: number,
): number {
  const hasFactors = isFactored && (metric.kind === 'kronecker' || metric.kind === 'ekfac');
  const transformed = hasFactors ? positions * (batch * n ** 2 + rows * c ** 2) : 0;
  const isExplicit = !isOuter || (metric.kind !== 'identity' && metric.kind !== 'kronecker');
  const made = isExplicit ? rows * positions * n * c : 0;
  const full = isExplicit ? rows ** 2 * n * c : batch ** 2 * n + rows ** 2 * c;
  const products = batchCoupling === 'diagonal' ? rows * (isExplicit ? n * c : n + c) : full;
  return count * (transformed + made + products);
}
