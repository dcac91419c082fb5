/**
 * The tensors of a step in `layers` mode: their names, shapes, and the check of a header against a session's definition, which
 * both the edge (before it forwards a body) and the worker (before it computes) apply.
 */
import { convolutionGeometry } from './convolution.ts';
import { stepCost } from './cost.ts';
import { ProblemError } from './errors.ts';
import type { Layer } from './layer.ts';
import { LIMITS } from './limits.ts';
import { sentColumns, type Optimizer } from './optimizer.ts';
import { weightDecayRate } from './parameter-groups.ts';
import { formatShape, type Dtype, type SafetensorsHeader, type TensorEntry } from './safetensors.ts';

/** Names of a layer's parameters. */
export const PARAMETER_NAMES = ['weight', 'bias', 'scale', 'shift', 'parameters'] as const;
export type ParameterName = (typeof PARAMETER_NAMES)[number];

/** Names of the tensors on the wire. */
export const TENSOR = {
  /** Request: per-sample losses φ_i, [B]. */
  losses: 'losses',
  /** Request, with the Levenberg–Marquardt rule: losses of the same samples under the parameters before the last step, [B]. */
  previousLosses: 'previous_losses',
  /** Request: input activations, [B, …]. */
  input: (layer: string) => `layers.${layer}.input`,
  /** Request: per-sample gradients of each sample's own loss in the pre-activations, [B, …]. */
  outputGradient: (layer: string) => `layers.${layer}.output_grad`,
  /** Request: the same for the r columns of the terminal curvature, [B, r, …]. */
  curvatureGradient: (layer: string) => `layers.${layer}.curvature_grad`,
  /** Request, generic layer: per-sample gradients in the parameters, [B, m]. */
  parameterGradient: (layer: string) => `layers.${layer}.param_grad`,
  /** Request, generic layer: the same for the r columns of the terminal curvature, [B, r, m]. */
  curvatureParameterGradient: (layer: string) => `layers.${layer}.curvature_param_grad`,
  /** Request: a parameter that decays, in its own shape. */
  parameter: (layer: string, parameter: ParameterName) => `layers.${layer}.parameter.${parameter}`,
  /** Reply: metric-weighted inputs ã, [B, n (+ 1, bias last)]. */
  policyInput: (layer: string) => `layers.${layer}.policy.input`,
  /** Reply: metric-weighted output gradients g̃, η included, [B, c]. */
  policyOutputGradient: (layer: string) => `layers.${layer}.policy.output_grad`,
  /** Reply: lower Cholesky factor of S_t, [B, B]. */
  policyCholesky: (layer: string) => `layers.${layer}.policy.chol`,
  /** Reply: the target of S_t κ_t = target_t + s_t, [B]: 1/h, unless V_xx is regularised or there is a running cost. */
  policyTarget: (layer: string) => `layers.${layer}.policy.target`,
  /** Reply, without cross-sample terms: κ_t = offset_t + gain_t ∘ s_t, both [B]. */
  policyGain: (layer: string) => `layers.${layer}.policy.gain`,
  policyOffset: (layer: string) => `layers.${layer}.policy.offset`,
  /** Reply: change of a parameter, in its own shape; beside a policy the part of the change that does not depend on s. */
  update: (layer: string, parameter: ParameterName) => `layers.${layer}.update.${parameter}`,
} as const;

const STEP_DTYPES: readonly Dtype[] = ['F32', 'F64'];

/** What a step's tensors depend on. */
export interface StepDefinition {
  readonly layers: readonly Layer[];
  readonly optimizer: Optimizer;
}

/** A tensor that a step must carry, or may if it is optional; 'B' stands for the batch, 'S' for the layer's own number of positions. */
export type ExpectedTensor = {
  readonly name: string;
  readonly shape: readonly ('B' | 'S' | number)[];
} & (
  | { readonly role: 'losses' | 'previousLosses'; readonly layer: null }
  | { readonly role: 'input' | 'lossGradient' | 'columnGradient'; readonly layer: string }
  | { readonly role: 'parameter'; readonly layer: string; readonly parameter: ParameterName }
);

/** Whether a step may leave a tensor out. */
export function isOptional({ role }: ExpectedTensor): boolean {
  return role === 'previousLosses';
}

/** Shapes of a layer's parameters, by name. */
function parameterShapes(layer: Layer): Readonly<Partial<Record<ParameterName, readonly number[]>>> {
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

/** The tensors a step of this session must carry, and those it may; no others. */
export function expectedTensors({ layers, optimizer }: StepDefinition): readonly ExpectedTensor[] {
  const columns = sentColumns(optimizer.terminalCurvature);
  const expected: ExpectedTensor[] = [{ name: TENSOR.losses, layer: null, role: 'losses', shape: ['B'] }];
  if (optimizer.learningRate.kind === 'levenberg-marquardt') {
    expected.push({ name: TENSOR.previousLosses, layer: null, role: 'previousLosses', shape: ['B'] });
  }
  for (const layer of layers) {
    const { input, output } = activationShapes(layer);
    const names = layerTensors(layer);
    const expect = (
      name: string,
      role: 'input' | 'lossGradient' | 'columnGradient',
      shape: ExpectedTensor['shape'],
    ): void => {
      expected.push({ name, layer: layer.name, role, shape });
    };
    if (names.input !== null && input !== null) expect(names.input, 'input', ['B', ...input]);
    expect(names.lossGradient, 'lossGradient', ['B', ...output]);
    if (columns > 0) expect(names.columnGradient, 'columnGradient', ['B', columns, ...output]);
    const shapes = parameterShapes(layer);
    for (const parameter of decayingParameters(optimizer, layer)) {
      const name = TENSOR.parameter(layer.name, parameter);
      expected.push({ name, layer: layer.name, role: 'parameter', parameter, shape: shapes[parameter] ?? [] });
    }
  }
  return expected;
}

/**
 * Checks a step's header against the session's definition.
 *
 * @returns the batch size B, from `losses`
 * @throws ProblemError `unknown_tensor`, `missing_tensor`, `dtype_unsupported` or `shape_mismatch`, naming the tensor;
 *   `step_too_large`
 */
export function checkStepHeader(header: SafetensorsHeader, definition: StepDefinition): number {
  const expected = new Map(expectedTensors(definition).map((tensor) => [tensor.name, tensor]));
  const found = new Map<string, TensorEntry>();
  for (const entry of header.entries) {
    if (!expected.has(entry.name)) {
      throw new ProblemError('unknown_tensor', {
        param: entry.name,
        detail: `${JSON.stringify(entry.name)} is no tensor of this session, whose layers are ${layerNames(definition.layers)}.`,
        remedy: `Send ${[...expected.keys()].slice(0, 4).join(', ')}${expected.size > 4 ? ', …' : ''}, and nothing else.`,
      });
    }
    found.set(entry.name, entry);
  }
  const batch = batchOf(found.get(TENSOR.losses));
  const positions = new Map<string, number>();
  for (const tensor of expected.values()) {
    const { name, layer, shape } = tensor;
    const entry = found.get(name);
    if (entry === undefined) {
      if (isOptional(tensor)) continue;
      const wanted = shape.map((size) => (size === 'B' ? batch : size));
      throw new ProblemError('missing_tensor', {
        param: name,
        detail: `${name} is missing.`,
        remedy: `Send ${name} with shape ${formatShape(wanted)}.`,
      });
    }
    if (!STEP_DTYPES.includes(entry.dtype)) {
      throw new ProblemError('dtype_unsupported', {
        param: name,
        detail: `${name} has dtype ${entry.dtype}; a step takes ${STEP_DTYPES.join(' or ')}.`,
        remedy: 'Convert the tensor to F32.',
      });
    }
    // The first tensor of a layer with an axis of positions says how many there are.
    const axis = shape.indexOf('S');
    const counted = entry.shape[axis];
    if (layer !== null && axis >= 0 && counted !== undefined && counted > 0 && !positions.has(layer)) {
      positions.set(layer, counted);
    }
    const wanted = shape.map((size) => (size === 'B' ? batch : size === 'S' ? positions.get(layer ?? '') : size));
    if (entry.shape.length !== wanted.length || entry.shape.some((size, index) => size !== wanted[index])) {
      throw new ProblemError('shape_mismatch', {
        param: name,
        detail: `${name} has shape ${formatShape(entry.shape)}; ${formatShape(shape)}${shape.includes('B') ? ` with B = ${String(batch)}` : ''} was expected.`,
        remedy: shape.includes('B')
          ? 'Send every tensor with the batch of "losses" first and the sizes the session was created with.'
          : 'Send the parameter in its own shape, with the sizes the session was created with.',
      });
    }
  }
  checkStepSize(definition, batch, positions);
  return batch;
}

/** @throws ProblemError `step_too_large` */
function checkStepSize(definition: StepDefinition, batch: number, positions: ReadonlyMap<string, number>): void {
  const fault = excess(definition, batch, positions);
  if (fault === null) return;
  let most = 0;
  for (let tooMany = batch; tooMany - most > 1;) {
    const middle = Math.floor((most + tooMany) / 2);
    if (excess(definition, middle, positions) === null) most = middle;
    else tooMany = middle;
  }
  throw new ProblemError('step_too_large', {
    param: TENSOR.losses,
    detail: `A batch of ${String(batch)} with ${String(definition.layers.length)} layers takes ${fault}.`,
    remedy:
      most === 0
        ? 'Even one sample is too much: use narrower layers, shorter sequences, or another metric or terminal curvature.'
        : `With these layers send at most ${String(most)} samples in a step.`,
  });
}

/** What of a step on so many samples exceeds a limit, in words; null if nothing does. */
function excess(definition: StepDefinition, batch: number, positions: ReadonlyMap<string, number>): string | null {
  const { rows, batchWork, batchFactorBytes, gramWork, inputBytes } = stepCost(definition, batch, positions);
  if (batchWork > LIMITS.batchWork || batchFactorBytes > LIMITS.batchFactorBytes) {
    return `one factorisation of ${String(rows)}×${String(rows)} per layer, ${String(batchFactorBytes)} bytes together`;
  }
  if (gramWork > LIMITS.gramWork) {
    return `${gramWork.toExponential(1)} operations for tangent kernels of explicit per-sample gradients`;
  }
  if (inputBytes > LIMITS.inputBytes) return `${String(inputBytes)} bytes for the patches or one-hot rows of one layer`;
  return null;
}

function batchOf(losses: TensorEntry | undefined): number {
  if (losses === undefined) {
    throw new ProblemError('missing_tensor', {
      param: TENSOR.losses,
      detail: 'losses is missing.',
      remedy: 'Send the per-sample losses of the batch as "losses" with shape [B].',
    });
  }
  const [batch] = losses.shape;
  if (losses.shape.length !== 1 || batch === undefined || batch < 1 || batch > LIMITS.batch) {
    throw new ProblemError('shape_mismatch', {
      param: TENSOR.losses,
      detail: `losses has shape ${formatShape(losses.shape)}; [B] with 1 ≤ B ≤ ${String(LIMITS.batch)} was expected.`,
      remedy: `Send one loss per sample, at most ${String(LIMITS.batch)} samples in a step.`,
    });
  }
  return batch;
}

function layerNames(layers: readonly Layer[]): string {
  const shown = layers.slice(0, 8).map(({ name }) => name);
  return shown.join(', ') + (layers.length > shown.length ? ', …' : '');
}

const STEP_NUMBER = /^(0|[1-9][0-9]{0,14})$/;

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
