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
import type { SessionDefinition, StepMetrics } from '../../shared/session.ts';
import { checkStepHeader, TENSOR } from '../../shared/step.ts';
import type { StepBatch, StepReply } from '../optimizer/step.ts';
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
 * Checks a step's body: header, names, shapes, and that every value is finite.
 *
 * @param precision of the engine that will compute: what is finite in float64 need not be in float32
 * @throws ProblemError the codes of `checkStepHeader`, and `non_finite_value`
 */
export function decodeStep(
  body: Uint8Array,
  definition: SessionDefinition,
  precision: Engine['precision'],
): DecodedStep {
  const header = readHeader(body);
  const batch = checkStepHeader(header, definition.layers);
  const entries = new Map(
    header.entries.map((entry) => [entry.name, { entry, values: finiteValues(body, header, entry, precision) }]),
  );
  const find = (name: string): { entry: TensorEntry; values: TensorValues } => {
    const found = entries.get(name);
    if (found === undefined) throw new TypeError(`${name} passed the header check but is missing`);
    return found;
  };
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
        layers: definition.layers.map(({ name }) => ({
          input: upload(TENSOR.input(name)),
          outputGradient: upload(TENSOR.outputGradient(name)),
        })),
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

/** The body of a reply: its tensors, and the step's metrics in `__metadata__`. */
export function encodeReply(
  engine: Engine,
  definition: SessionDefinition,
  reply: StepReply,
  metrics: StepMetrics,
): Uint8Array<ArrayBuffer> {
  const named = (name: string, tensor: Tensor): NamedTensor => ({
    name,
    shape: tensor.shape,
    values: engine.read(tensor),
  });
  const tensors: NamedTensor[] = [];
  switch (reply.kind) {
    case 'policy':
      tensors.push(named(TENSOR.target, reply.target));
      for (const [t, { preconditioned, choleskyFactor }] of reply.policies.entries()) {
        const name = definition.layers[t]?.name ?? '';
        tensors.push(
          named(TENSOR.policyInput(name), preconditioned.input),
          named(TENSOR.policyOutputGradient(name), preconditioned.outputGradient),
          named(TENSOR.policyCholesky(name), choleskyFactor),
        );
      }
      break;
    case 'update':
      for (const [t, { weight, bias }] of reply.changes.entries()) {
        const name = definition.layers[t]?.name ?? '';
        tensors.push(named(TENSOR.updateWeight(name), weight));
        if (bias !== null) tensors.push(named(TENSOR.updateBias(name), bias));
      }
      break;
  }
  return encode(tensors, { metrics: JSON.stringify(metrics) });
}
