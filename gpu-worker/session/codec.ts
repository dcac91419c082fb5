/** A step's body to tensors, and its result to a reply's body. */
import { ProblemError } from '../../shared/errors.ts';
import {
  encode,
  readHeader,
  readValues,
  type NamedTensor,
  type SafetensorsHeader,
  type TensorEntry,
  type TensorValues,
} from '../../shared/safetensors.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import type { SessionDefinition, StepMetrics } from '../../shared/session.ts';
import { checkStepHeader, decayingParameters, layerTensors, PARAMETER_NAMES, TENSOR } from '../../shared/step.ts';
import type { Policy } from '../optimizer/ddp/policy.ts';
import { fixedChange, metricWeighted } from '../optimizer/ddp/policy.ts';
import { parameterChanges } from '../optimizer/layers/layer.ts';
import type { ParameterChanges } from '../optimizer/layers/parameter-changes.ts';
import type { LayerBatch, StepBatch, StepReply } from '../optimizer/step.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';

/** A body whose header and values are checked. */
export interface DecodedStep {
  /** B. */
  readonly batch: number;
  /** Mean loss of the batch. */
  readonly loss: number;
  /** Copies the tensors to the device. */
  readonly upload: (engine: Engine) => StepBatch;
}

/**
 * Checks a step's body: header, names, shapes, that every value is finite, and that token numbers are in range.
 *
 * @param precision of the engine that will compute: what is finite in float64 need not be in float32
 * @throws ProblemError the codes of `checkStepHeader`, `non_finite_value` and `invalid_index`
 */
export function decodeStep(
  body: Uint8Array,
  definition: SessionDefinition,
  precision: Engine['precision'],
): DecodedStep {
  const header = readHeader(body);
  const batch = checkStepHeader(header, definition);
  const entries = new Map(
    header.entries.map((entry) => [entry.name, { entry, values: finiteValues(body, header, entry, precision) }]),
  );
  const find = (name: string): { entry: TensorEntry; values: TensorValues } => {
    const found = entries.get(name);
    if (found === undefined) throw new TypeError(`${name} passed the header check but is missing`);
    return found;
  };
  for (const layer of definition.layers) {
    if (layer.kind !== 'embedding') continue;
    const { entry, values } = find(TENSOR.input(layer.name));
    checkIndices(entry, values, layer.inputs);
  }
  const { optimizer } = definition;
  const columns = sentColumns(optimizer.terminalCurvature);
  const losses = find(TENSOR.losses).values;
  return {
    batch,
    loss: mean(losses),
    upload: (engine) => {
      const upload = (name: string): Tensor => {
        const { entry, values } = find(name);
        return engine.tensor(values, entry.shape);
      };
      return {
        losses: upload(TENSOR.losses),
        previousLosses: entries.has(TENSOR.previousLosses) ? upload(TENSOR.previousLosses) : null,
        layers: definition.layers.map((layer): LayerBatch => {
          const { input, lossGradient, columnGradient } = layerTensors(layer);
          return {
            input: input === null ? null : upload(input),
            lossGradient: upload(lossGradient),
            columnGradient: columns === 0 ? null : mergeColumns(engine, upload(columnGradient)),
            parameters: Object.fromEntries(
              decayingParameters(optimizer, layer).map((name) => [name, upload(TENSOR.parameter(layer.name, name))]),
            ),
          };
        }),
      };
    },
  };
}

export function mean(values: TensorValues): number {
  // Divided first, so that the mean of representable values is representable.
  let sum = 0;
  for (const value of values) sum += value / values.length;
  return sum;
}

function finiteValues(
  body: Uint8Array,
  header: SafetensorsHeader,
  entry: TensorEntry,
  precision: Engine['precision'],
): TensorValues {
  const values = readValues(body, header, entry);
  const isFinite = precision === 'float32' ? isFiniteInFloat32 : Number.isFinite;
  const index = values.findIndex((value) => !isFinite(value));
  if (index >= 0) {
    const value = values[index] ?? Number.NaN;
    throw new ProblemError('non_finite_value', {
      param: entry.name,
      detail: `${entry.name}${formatIndex(index, entry.shape)} is ${String(value)}${Number.isFinite(value) ? ', which is infinite in float32' : ''}.`,
      remedy: 'Look for a diverged forward pass or a division by zero in the client; the session is as it was before.',
    });
  }
  return values;
}

/** @throws ProblemError `invalid_index` unless every value is a whole number from 0 to count − 1 */
function checkIndices(entry: TensorEntry, values: TensorValues, count: number): void {
  const index = values.findIndex((value) => !Number.isInteger(value) || value < 0 || value >= count);
  if (index < 0) return;
  throw new ProblemError('invalid_index', {
    param: entry.name,
    detail: `${entry.name}${formatIndex(index, entry.shape)} is ${String(values[index])}; a whole number from 0 to ${String(count - 1)} was expected.`,
    remedy: 'Send token numbers counted from 0, or create the session with the size of the whole vocabulary.',
  });
}

function isFiniteInFloat32(value: number): boolean {
  return Number.isFinite(Math.fround(value));
}

/** A flat index as subscripts: [3, 17]. */
function formatIndex(index: number, shape: readonly number[]): string {
  const subscripts: number[] = [];
  let rest = index;
  for (const size of shape.toReversed()) {
    subscripts.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return `[${subscripts.join(', ')}]`;
}

/** [B, r, …] → [B·r, …]. */
function mergeColumns(engine: Engine, gradient: Tensor): Tensor {
  const [batch = 1, columns = 1, ...rest] = gradient.shape;
  return engine.reshape(gradient, [batch * columns, ...rest]);
}

/** The body of a reply: its tensors, and the step's metrics in `__metadata__`. */
export function encodeReply(
  engine: Engine,
  { layers }: SessionDefinition,
  reply: StepReply,
  metrics: StepMetrics,
): Uint8Array<ArrayBuffer> {
  const named = (name: string, tensor: Tensor): NamedTensor => ({
    name,
    shape: tensor.shape,
    values: engine.read(tensor),
  });
  const changesOf = (layer: string, changes: ParameterChanges): NamedTensor[] =>
    PARAMETER_NAMES.flatMap((parameter) => {
      const change = changes[parameter];
      return change === undefined ? [] : [named(TENSOR.update(layer, parameter), change)];
    });
  const tensors = layers.flatMap((layer, t): NamedTensor[] => {
    const { name } = layer;
    switch (reply.kind) {
      case 'policy': {
        const policy = reply.policies[t];
        if (policy === undefined) throw new TypeError(`no policy for layer ${name}`);
        const { input, output } = metricWeighted(engine, policy);
        const fixed = fixedChange(engine, policy);
        return [
          named(TENSOR.policyInput(name), input),
          named(TENSOR.policyOutputGradient(name), output),
          ...coefficientTensors(name, policy, named),
          ...(fixed === null ? [] : changesOf(name, parameterChanges(engine, layer, fixed))),
        ];
      }
      case 'update':
        return changesOf(name, reply.changes[t] ?? {});
    }
  });
  return encode(tensors, { metrics: JSON.stringify(metrics) });
}

function coefficientTensors(
  layer: string,
  { solver }: Policy,
  named: (name: string, tensor: Tensor) => NamedTensor,
): NamedTensor[] {
  switch (solver.kind) {
    case 'cholesky':
      return [named(TENSOR.policyCholesky(layer), solver.factor), named(TENSOR.policyTarget(layer), solver.target)];
    case 'diagonal':
      return [named(TENSOR.policyGain(layer), solver.gain), named(TENSOR.policyOffset(layer), solver.offset)];
    case 'conjugate-gradient':
      throw new TypeError('a policy is handed out with its Cholesky factor');
  }
}
