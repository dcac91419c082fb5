/** `layers` mode: a step's body to tensors, and its result to a reply's body. */
import type { LayersDefinition } from '../../shared/layers-definition.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import { PARAMETER_NAMES } from '../../shared/parameter-names.ts';
import { encode, readHeader } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { checkStepHeader, decayingParameters, layerTensors } from '../../shared/step.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { fixedChange, metricWeighted, type Policy } from '../optimizer/ddp/policy.ts';
import { parameterChanges } from '../optimizer/layers/layer.ts';
import type { ParameterChanges } from '../optimizer/layers/parameter-changes.ts';
import type { LayerBatch, StepBatch, StepReply } from '../optimizer/step.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { assertIndices, mean, readFinite, tensorNamed } from '../../shared/checked-tensors.ts';

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
 * @param precision of the engine that will compute
 * @throws ProblemError the codes of `checkStepHeader`, `non_finite_value` and `invalid_index`
 */
export function decodeStep(
  body: Uint8Array,
  definition: LayersDefinition,
  precision: Engine['precision'],
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

/** A tensor of a reply. */
export interface ReplyTensor {
  readonly name: string;
  readonly tensor: Tensor;
}

/** The tensors of a reply. */
export function replyTensors(engine: Engine, { layers }: LayersDefinition, reply: StepReply): ReplyTensor[] {
  const named = (name: string, tensor: Tensor): ReplyTensor => ({ name, tensor });
  const changesOf = (layer: string, changes: ParameterChanges): ReplyTensor[] =>
    PARAMETER_NAMES.flatMap((parameter) => {
      const change = changes[parameter];
      return change === undefined ? [] : [named(TENSOR.update(layer, parameter), change)];
    });
  return layers.flatMap((layer, t): ReplyTensor[] => {
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
}

/** The body of a reply: its tensors, and the step's metrics in `__metadata__`. */
export function encodeReply(
  engine: Engine,
  tensors: readonly ReplyTensor[],
  metrics: StepMetrics,
): Uint8Array<ArrayBuffer> {
  const named = tensors.map(({ name, tensor }) => ({ name, shape: tensor.shape, values: engine.read(tensor) }));
  return encode(named, { metrics: JSON.stringify(metrics) });
}

function coefficientTensors(
  layer: string,
  { solver }: Policy,
  named: (name: string, tensor: Tensor) => ReplyTensor,
): ReplyTensor[] {
  switch (solver.kind) {
    case 'cholesky':
      return [named(TENSOR.policyCholesky(layer), solver.factor), named(TENSOR.policyTarget(layer), solver.target)];
    case 'diagonal':
      return [named(TENSOR.policyGain(layer), solver.gain), named(TENSOR.policyOffset(layer), solver.offset)];
    case 'conjugate-gradient':
      throw new TypeError('a policy is handed out with its Cholesky factor');
  }
}
