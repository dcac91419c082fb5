/**
 * The tensors of a step: their shapes in `layers` mode, and in every mode the check of a header against a session's
 * definition, which both the edge (before it forwards a body) and the worker (before it computes) apply.
 */
import { convolutionGeometry } from './convolution.ts';
import {
  batchCost,
  optimizerStepBytes,
  passCost,
  PREDICTION_PASSES,
  stepCost,
  trainingPasses,
  type BatchCost,
  type Passes,
} from './cost.ts';
import { ProblemError } from './errors.ts';
import { checkTensors, type ExpectedTensor } from './expected-tensor.ts';
import type { HostedDefinition } from './hosted-definition.ts';
import { HOSTED_TENSOR, hostedStepTensors, predictionTensors } from './hosted-tensors.ts';
import type { Layer } from './layer.ts';
import { kernelReplyForm, type KernelDefinition } from './kernel-definition.ts';
import { carriesStatistics, kernelStepTensors } from './kernel-tensors.ts';
import { replyForm, type LayersDefinition } from './layers-definition.ts';
import { LIMITS } from './limits.ts';
import { modelStages } from './model.ts';
import { sentColumns, type BatchSolver, type Optimizer } from './optimizer.ts';
import { weightDecayRate } from './parameter-groups.ts';
import { PARAMETER_NAMES, type ParameterName } from './parameter-names.ts';
import { hasVersions } from './policy-encoding.ts';
import { FLOATING_DTYPES, INDEX_DTYPES, type SafetensorsHeader } from './safetensors.ts';
import { elementCount } from './shape.ts';
import { TENSOR } from './tensor-names.ts';

/** What a step's tensors depend on. */
export type StepDefinition =
  | Pick<LayersDefinition, 'mode' | 'layers' | 'optimizer' | 'reply' | 'policyEncoding' | 'transport'>
  | Pick<KernelDefinition, 'mode' | 'layers' | 'optimizer' | 'reply' | 'transport'>
  | Pick<HostedDefinition, 'mode' | 'model' | 'loss' | 'optimizer' | 'transport'>;
type LayersStepDefinition = Extract<StepDefinition, { mode: 'layers' }>;
type KernelStepDefinition = Extract<StepDefinition, { mode: 'kernel' }>;
type HostedStepDefinition = Extract<StepDefinition, { mode: 'hosted' }>;

type ActivationAxis = 'B' | 'S' | number;

/** A tensor that a step in `layers` mode carries. */
export type LayersStepTensor = ExpectedTensor<ActivationAxis> &
  (
    | { readonly role: 'losses' | 'previousLosses' | 'metricVersions'; readonly layer: null }
    | { readonly role: 'input' | 'lossGradient' | 'columnGradient'; readonly layer: string }
    | { readonly role: 'parameter'; readonly layer: string; readonly parameter: ParameterName }
  );

/** Shapes of a layer's parameters, by name. */
export function parameterShapes(layer: Layer): Readonly<Partial<Record<ParameterName, readonly number[]>>> {
  switch (layer.kind) {
    case 'dense': {
      const weight = [layer.inputs, layer.outputs];
      return layer.bias ? { weight, bias: [layer.outputs] } : { weight };
    }
    case 'conv2d': {
      const weight = [...layer.kernel, layer.inputs / layer.groups, layer.outputs];
      return layer.bias ? { weight, bias: [layer.outputs] } : { weight };
    }
    case 'scale-shift':
      return layer.shift ? { scale: [layer.features], shift: [layer.features] } : { scale: [layer.features] };
    case 'embedding':
      return { weight: [layer.inputs, layer.outputs] };
    case 'generic':
      return { parameters: [layer.parameters] };
  }
}

/** The parameters of a layer that decay, which a step must carry. */
export function decayingParameters(optimizer: Optimizer, layer: Layer): ParameterName[] {
  if (weightDecayRate(optimizer, layer.name) === 0) return [];
  const shapes = parameterShapes(layer);
  const isIncluded = (name: ParameterName): boolean =>
    name === 'weight' || name === 'parameters' || optimizer.weightDecay?.biases === true;
  return PARAMETER_NAMES.filter((name) => shapes[name] !== undefined && isIncluded(name));
}

/** Shapes of a layer's input and pre-activation behind the batch axis; a generic layer has only parameters. */
function activationShapes(layer: Layer): {
  input: readonly ('S' | number)[] | null;
  output: readonly ('S' | number)[];
} {
  switch (layer.kind) {
    case 'dense': {
      const positions = layer.sequence ? (['S'] as const) : [];
      return { input: [...positions, layer.inputs], output: [...positions, layer.outputs] };
    }
    case 'conv2d': {
      const { rows, columns } = convolutionGeometry(layer);
      return {
        input: [layer.height, layer.width, layer.inputs],
        output: [rows.outputs, columns.outputs, layer.outputs],
      };
    }
    case 'scale-shift': {
      const shape = layer.sequence ? (['S', layer.features] as const) : [layer.features];
      return { input: shape, output: shape };
    }
    case 'embedding':
      return { input: ['S'], output: ['S', layer.outputs] };
    case 'generic':
      return { input: null, output: [layer.parameters] };
  }
}

/** Names of the tensors that one layer's part of a step consists of. */
export function layerTensors(layer: Layer): {
  readonly input: string | null;
  readonly lossGradient: string;
  readonly columnGradient: string;
} {
  const { name } = layer;
  return layer.kind === 'generic'
    ? {
        input: null,
        lossGradient: TENSOR.parameterGradient(name),
        columnGradient: TENSOR.curvatureParameterGradient(name),
      }
    : {
        input: TENSOR.input(name),
        lossGradient: TENSOR.outputGradient(name),
        columnGradient: TENSOR.curvatureGradient(name),
      };
}

/** The tensors a step of this session carries; no others. */
export function expectedTensors(
  definition: Omit<LayersStepDefinition, 'mode' | 'transport'>,
): [LayersStepTensor, ...LayersStepTensor[]] {
  const { layers, optimizer } = definition;
  const columns = sentColumns(optimizer.terminalCurvature);
  const always = { dtypes: FLOATING_DTYPES, presence: 'required' } as const;
  const expected: [LayersStepTensor, ...LayersStepTensor[]] = [
    { name: TENSOR.losses, layer: null, role: 'losses', shape: ['B'], ...always },
  ];
  if (optimizer.learningRate.kind === 'levenberg-marquardt') {
    const previous = { dtypes: FLOATING_DTYPES, presence: 'optional' } as const;
    expected.push({ name: TENSOR.previousLosses, layer: null, role: 'previousLosses', shape: ['B'], ...previous });
  }
  if (replyForm(definition) === 'policy' && hasVersions(definition)) {
    const shape = [layers.length];
    const versions = { dtypes: INDEX_DTYPES, presence: 'optional' } as const;
    expected.push({ name: TENSOR.metricVersions, layer: null, role: 'metricVersions', shape, ...versions });
  }
  for (const layer of layers) {
    const { input, output } = activationShapes(layer);
    const names = layerTensors(layer);
    const expect = (
      name: string,
      role: 'input' | 'lossGradient' | 'columnGradient',
      shape: readonly ActivationAxis[],
    ): void => {
      expected.push({ name, layer: layer.name, role, shape, ...always });
    };
    if (names.input !== null && input !== null) expect(names.input, 'input', ['B', ...input]);
    expect(names.lossGradient, 'lossGradient', ['B', ...output]);
    if (columns > 0) expect(names.columnGradient, 'columnGradient', ['B', columns, ...output]);
    const shapes = parameterShapes(layer);
    for (const parameter of decayingParameters(optimizer, layer)) {
      const name = TENSOR.parameter(layer.name, parameter);
      expected.push({
        name,
        layer: layer.name,
        role: 'parameter',
        parameter,
        shape: shapes[parameter] ?? [],
        ...always,
      });
    }
  }
  return expected;
}

/**
 * Checks a step's header against the session's definition.
 *
 * @returns the batch size B
 * @throws ProblemError `unknown_tensor`, `missing_tensor`, `dtype_unsupported` or `shape_mismatch`, naming the tensor;
 *   `step_too_large`
 */
export function checkStepHeader(header: SafetensorsHeader, definition: StepDefinition): number {
  switch (definition.mode) {
    case 'layers': {
      const context = `this session, whose layers are ${layerNames(definition.layers)}`;
      const { batch, positions } = checkTensors(
        header,
        expectedTensors(definition),
        context,
        definition.transport.int8,
      );
      checkStepSize(TENSOR.losses, batch, (samples) => layersExcess(definition, samples, positions));
      return batch;
    }
    case 'kernel': {
      const context = `this session, whose layers are ${layerNames(definition.layers)}`;
      const { batch } = checkTensors(header, kernelStepTensors(definition), context, definition.transport.int8);
      // How many batches a session has averaged only its worker knows.
      carriesStatistics(header, definition, batch, true);
      checkStepSize(TENSOR.losses, batch, (samples) => kernelExcess(definition, samples));
      return batch;
    }
    case 'hosted': {
      const { batch } = checkTensors(
        header,
        hostedStepTensors(definition),
        'a step of this session',
        definition.transport.int8,
      );
      checkHostedBatch(definition, batch, HOSTED_TENSOR.samples);
      return batch;
    }
  }
}

/**
 * Checks the header of a prediction's body as {@link checkStepHeader} does a step's.
 *
 * @returns B
 */
export function checkPredictionHeader(header: SafetensorsHeader, definition: HostedStepDefinition): number {
  const { batch } = checkTensors(
    header,
    predictionTensors(definition),
    'a prediction of this session',
    definition.transport.int8,
  );
  checkStepSize(HOSTED_TENSOR.samples, batch, (samples) => passExcess(definition, PREDICTION_PASSES, samples));
  return batch;
}

/** Checks how many samples a hosted step may have. @param counted the field that says so @throws ProblemError `step_too_large` */
export function checkHostedBatch(definition: HostedStepDefinition, batch: number, counted: string): void {
  checkStepSize(counted, batch, (samples) => hostedExcess(definition, samples));
}

/**
 * @param counted the tensor or field that says how many samples there are
 * @param excess what so many samples exceed, in words; null if nothing
 * @throws ProblemError `step_too_large`
 */
export function checkStepSize(counted: string, batch: number, excess: (samples: number) => string | null): void {
  const fault = excess(batch);
  if (fault === null) return;
  let most = 0;
  for (let tooMany = batch; tooMany - most > 1;) {
    const middle = Math.floor((most + tooMany) / 2);
    if (excess(middle) === null) most = middle;
    else tooMany = middle;
  }
  throw new ProblemError('step_too_large', {
    param: counted,
    detail: `A batch of ${String(batch)} takes ${fault}.`,
    remedy:
      most === 0
        ? 'Even one sample is too much: use narrower layers, shorter sequences, or another metric or terminal curvature.'
        : `With these layers send at most ${String(most)} samples at once.`,
  });
}

type Positions = ReadonlyMap<string, number>;

/**
 * Bytes that a step takes beside the session's state, in float32: the batch as it was sent, or what the passes of a hosted model
 * keep of it, and the optimizer's own tensors.
 *
 * @param positions of layers with an axis of positions, by name, in `layers` mode; 1 where it is not known yet
 */
export function stepBytes(
  definition: LayersStepDefinition | HostedStepDefinition,
  batch: number,
  positions: Positions = new Map(),
): number {
  switch (definition.mode) {
    case 'layers':
      return sentBytes(definition, batch, positions) + optimizerStepBytes(definition, batch, positions);
    case 'hosted': {
      const { model, optimizer } = definition;
      const stages = modelStages(model);
      const layers = stages.map(({ layer }) => layer);
      const modelPositions = new Map(stages.map((stage) => [stage.layer.name, stage.positions]));
      const { activationBytes } = passCost(model, trainingPasses(optimizer), batch);
      return activationBytes + optimizerStepBytes({ layers, optimizer }, batch, modelPositions);
    }
  }
}

/** Of what the client sends, in float32. */
function sentBytes(definition: LayersStepDefinition, batch: number, positions: Positions): number {
  return expectedTensors(definition).reduce((sum, { shape, layer }) => {
    const sizes = shape.map((size) => (size === 'B' ? batch : size === 'S' ? (positions.get(layer ?? '') ?? 1) : size));
    return sum + 4 * elementCount(sizes);
  }, 0);
}

function memoryExcess(
  definition: LayersStepDefinition | HostedStepDefinition,
  batch: number,
  positions?: Positions,
): string | null {
  const bytes = stepBytes(definition, batch, positions);
  if (bytes <= LIMITS.stepBytes) return null;
  return `about ${String(bytes)} bytes beside the session’s state, more than ${String(LIMITS.stepBytes)}`;
}

/** Of the optimizer's work. */
function workExcess(
  definition: Pick<LayersDefinition, 'layers' | 'optimizer'>,
  batch: number,
  handsOutFactors: boolean,
): string | null {
  const { layers, optimizer } = definition;
  const cost = stepCost(definition, batch, handsOutFactors);
  const { gramWork } = cost;
  const excess = solutionExcess(layers.length, optimizer.solver, cost);
  if (excess !== null) return excess;
  if (gramWork > LIMITS.gramWork) {
    return `${gramWork.toExponential(1)} operations for tangent kernels of explicit per-sample gradients, more than ${LIMITS.gramWork.toExponential(1)}`;
  }
  return null;
}

function kernelExcess(definition: KernelStepDefinition, batch: number): string | null {
  const { layers, optimizer } = definition;
  const handsOutFactors = kernelReplyForm(definition) === 'factors';
  const carriesMatrices = optimizer.batchCoupling !== 'diagonal';
  const cost = batchCost({ layers: layers.length, optimizer, handsOutFactors, carriesMatrices }, batch);
  return solutionExcess(layers.length, optimizer.solver, cost);
}

/** Of the systems of one batch. */
export function solutionExcess(
  layers: number,
  { iterations }: Pick<BatchSolver, 'iterations'>,
  { rows, solution, batchWork, batchFactorBytes }: BatchCost,
): string | null {
  if (batchWork <= LIMITS.batchWork && batchFactorBytes <= LIMITS.batchFactorBytes) return null;
  if (solution === 'conjugate-gradient') {
    return `${String(layers)} systems of ${String(rows)}×${String(rows)}, one per layer, ${String(batchFactorBytes)} bytes of them sent, and ${String(iterations)} iterations for each; the most are ${LIMITS.batchWork.toExponential(1)} operations and ${String(LIMITS.batchFactorBytes)} bytes`;
  }
  return `${String(layers)} factorisations of ${String(rows)}×${String(rows)}, one per layer, ${String(batchFactorBytes)} bytes together; the most are ${LIMITS.batchWork.toExponential(1)} operations and ${String(LIMITS.batchFactorBytes)} bytes`;
}

function layersExcess(definition: LayersStepDefinition, batch: number, positions: Positions): string | null {
  const isPolicy = replyForm(definition) === 'policy';
  return workExcess(definition, batch, isPolicy) ?? memoryExcess(definition, batch, positions);
}

function hostedExcess(definition: HostedStepDefinition, batch: number): string | null {
  const { model, optimizer } = definition;
  const layers = modelStages(model).map(({ layer }) => layer);
  return (
    passExcess(definition, trainingPasses(optimizer), batch) ??
    workExcess({ layers, optimizer }, batch, false) ??
    memoryExcess(definition, batch)
  );
}

/** Of the passes through the model. */
function passExcess({ model }: Pick<HostedStepDefinition, 'model'>, passes: Passes, batch: number): string | null {
  const { activationBytes, forwardWork } = passCost(model, passes, batch);
  if (activationBytes > LIMITS.activationBytes)
    return `${String(activationBytes)} bytes of activations and their gradients, more than ${String(LIMITS.activationBytes)}`;
  if (forwardWork > LIMITS.forwardWork) {
    return `${forwardWork.toExponential(1)} multiplications for one forward pass, more than ${LIMITS.forwardWork.toExponential(1)}`;
  }
  return null;
}

function layerNames(layers: readonly { readonly name: string }[]): string {
  const shown = layers.slice(0, 8).map(({ name }) => name);
  return shown.join(', ') + (layers.length > shown.length ? ', …' : '');
}

/** How a step’s number is written. */
export const STEP_NUMBER = /^(0|[1-9][0-9]{0,14})$/;

/** Parses the sequence number of a step from its path segment. */
export function parseStepNumber(text: string): number {
  if (!STEP_NUMBER.test(text)) {
    throw new ProblemError('invalid_parameter', {
      param: 'n',
      detail: `The step number ${JSON.stringify(text)} is not a whole number from 0 to 999,999,999,999,999.`,
      remedy: 'Number the steps 0, 1, 2, … ; GET the session for its nextStep.',
    });
  }
  return Number(text);
}
