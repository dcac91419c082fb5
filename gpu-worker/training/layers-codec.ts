/** `layers` mode: a step's body to tensors, and its result to a reply's body. */
import { at } from '../../shared/at.ts';
import type { Layer } from '../../shared/layer.ts';
import type { LayersDefinition } from '../../shared/layers-definition.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import { PARAMETER_NAMES, type ParameterName } from '../../shared/parameter-names.ts';
import { hasVersions, policyEncodingOf } from '../../shared/policy-encoding.ts';
import { readHeader } from '../../shared/safetensors.ts';
import { checkStepHeader, decayingParameters, layerTensors } from '../../shared/step.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { inverseFactor } from '../optimizer/curvature/inverse-metric.ts';
import { fixedChange, metricWeighted, type Policy } from '../optimizer/ddp/policy.ts';
import { parameterChanges } from '../optimizer/layers/layer.ts';
import type { ParameterChanges } from '../optimizer/layers/parameter-changes.ts';
import type { LayerBatch, StepBatch, StepReply } from '../optimizer/step.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { scalarTensor } from '../tensor/scalar.ts';
import { assertIndices, mean, readFinite, tensorNamed } from '../../shared/checked-tensors.ts';
import { readVersions } from './metric-versions.ts';
import { narrowed, solverTensors, symmetricBlocks, whole, type ReplyTensor } from './reply-tensors.ts';

/** A body whose header and values are checked. */
export interface DecodedStep {
  /** B. */
  readonly batch: number;
  /** Mean loss of the batch. */
  readonly loss: number;
  /** Which inverses the client holds, per layer. */
  readonly heldVersions: readonly number[];
  /** Copies the tensors to the device. */
  readonly upload: (engine: Engine) => StepBatch;
}

/**
 * Checks a step's body: header, names, shapes, that every value is finite, and that token numbers are in range.
 *
 * @param precision of the engine that will compute
 * @param versions of the inverses that the client can hold, per layer
 * @throws ProblemError the codes of `checkStepHeader`, `non_finite_value`, `invalid_index`, and `invalid_parameter` for a version
 */
export function decodeStep(
  body: Uint8Array,
  definition: LayersDefinition,
  precision: Engine['precision'],
  versions: readonly number[],
): DecodedStep {
  const header = readHeader(body);
  const batch = checkStepHeader(header, definition);
  const tensors = readFinite(body, header, precision);
  for (const layer of definition.layers) {
    if (layer.kind !== 'embedding') continue;
    const remedy = 'Send token numbers counted from 0, or create the session with the size of the whole vocabulary.';
    assertIndices(tensorNamed(tensors, TENSOR.input(layer.name)), layer.inputs, remedy);
  }
  const { optimizer } = definition;
  const columns = sentColumns(optimizer.terminalCurvature);
  return {
    batch,
    heldVersions: readVersions(tensors, definition.layers, versions),
    loss: mean(tensorNamed(tensors, TENSOR.losses).values),
    upload: (engine) => {
      const upload = (name: string): Tensor => {
        const { entry, values } = tensorNamed(tensors, name);
        return engine.tensor(values, entry.shape);
      };
      return {
        losses: upload(TENSOR.losses),
        previousLosses: tensors.has(TENSOR.previousLosses) ? upload(TENSOR.previousLosses) : null,
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

/** [B, r, …] → [B·r, …]. */
function mergeColumns(engine: Engine, gradient: Tensor): Tensor {
  const [batch = 1, columns = 1, ...rest] = gradient.shape;
  return engine.reshape(gradient, [batch * columns, ...rest]);
}

/** What the client holds of the layers' inverses, and what there is, per layer. */
export interface InverseVersions {
  readonly held: readonly number[];
  readonly newest: readonly number[];
}

/**
 * The tensors of a reply.
 *
 * @param batch B
 */
export function replyTensors(
  engine: Engine,
  definition: LayersDefinition,
  reply: StepReply,
  batch: number,
  { held, newest }: InverseVersions,
): ReplyTensor[] {
  const { layers } = definition;
  const changesOf = (layer: string, changes: ParameterChanges): ReplyTensor[] =>
    parameterTensors((parameter) => TENSOR.update(layer, parameter), changes);
  const versions = hasVersions(definition) && reply.kind === 'policy' ? [versionTensor(engine, newest)] : [];
  const perLayer = layers.flatMap((layer, t): ReplyTensor[] => {
    const { name } = layer;
    switch (reply.kind) {
      case 'policy': {
        const policy = at(reply.policies, t);
        const fixed = fixedChange(engine, policy);
        return [
          ...(policyEncodingOf(definition, layer, batch) === 'sample-factors'
            ? sampleFactorTensors(engine, name, policy)
            : inverseFactorTensors(engine, layer, policy, at(held, t) < at(newest, t))),
          ...solverTensors(name, policy.solver),
          ...(fixed === null ? [] : changesOf(name, parameterChanges(engine, layer, fixed))),
        ];
      }
      case 'update':
        return changesOf(name, reply.changes[t] ?? {});
    }
  });
  return [...perLayer, ...versions];
}

function versionTensor(engine: Engine, versions: readonly number[]): ReplyTensor {
  return whole(TENSOR.metricVersions, engine.tensor(versions, [versions.length]));
}

function sampleFactorTensors(engine: Engine, layer: string, policy: Policy): ReplyTensor[] {
  const { input, output } = metricWeighted(engine, policy);
  return [narrowed(TENSOR.policyInput(layer), input), narrowed(TENSOR.policyOutputGradient(layer), output)];
}

/** η_t and P⁻¹; its Kronecker factors only where the client's are `old`. */
function inverseFactorTensors(
  engine: Engine,
  layer: Layer,
  { blocks, learningRate }: Policy,
  old: boolean,
): ReplyTensor[] {
  const { name } = layer;
  const rate = whole(TENSOR.learningRate(name), scalarTensor(engine, learningRate));
  const weights = blocks.flatMap(({ inverse }) => (inverse.weights === null ? [] : [inverse.weights]));
  if (weights.length > 0) {
    const diagonal = parameterChanges(engine, layer, weights);
    return [rate, ...parameterTensors((parameter) => TENSOR.inverseDiagonal(name, parameter), diagonal)];
  }
  if (!old || blocks.some(({ inverse }) => inverse.input === null || inverse.output === null)) return [rate];
  const inverseOf = (side: 'input' | 'output', tensorName: string): ReplyTensor => {
    const inverses = blocks.map(({ inverse }) => inverseFactor(engine, inverse[side]?.matrix ?? null));
    return symmetricBlocks(engine, tensorName, inverses);
  };
  return [rate, inverseOf('input', TENSOR.inputInverse(name)), inverseOf('output', TENSOR.outputInverse(name))];
}

function parameterTensors(name: (parameter: ParameterName) => string, tensors: ParameterChanges): ReplyTensor[] {
  return PARAMETER_NAMES.flatMap((parameter) => {
    const tensor = tensors[parameter];
    return tensor === undefined ? [] : [narrowed(name(parameter), tensor)];
  });
}
