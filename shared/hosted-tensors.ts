/** The tensors of hosted mode: of a step, of a prediction, and of the weights. */
import type { HostedDefinition } from './hosted-definition.ts';
import { truthKind } from './loss.ts';
import { modelOutputs } from './model.ts';
import type { ParameterName } from './parameter-names.ts';
import { FLOATING_DTYPES, INDEX_DTYPES } from './safetensors.ts';
import type { ExpectedTensor } from './expected-tensor.ts';

export const HOSTED_TENSOR = {
  /** Request: the samples, [B, …] in the model's input shape. */
  samples: 'x',
  /** Request: labels [B], or targets [B, C], as the loss takes. */
  truth: 'y',
  /** Request, may be left out: what each sample's loss is multiplied by, [B]. */
  sampleWeights: 'sample_weights',
  /** Reply to a prediction: what the model answers, [B, C]. */
  outputs: 'outputs',
  /** Weights: one parameter in its own shape. */
  parameter: (layer: string, parameter: ParameterName) => `layers.${layer}.${parameter}`,
  /** Weights: running statistics of a batch norm, [C]. */
  runningMean: (layer: string) => `layers.${layer}.running_mean`,
  runningVariance: (layer: string) => `layers.${layer}.running_variance`,
} as const;

type Definition = Pick<HostedDefinition, 'model' | 'loss'>;

/** What a step carries. */
export function hostedStepTensors(definition: Definition): [ExpectedTensor, ...ExpectedTensor[]] {
  return [samples(definition), truth(definition, 'required'), sampleWeights()];
}

/** What a prediction carries: with the truth its answer has the loss, too. */
export function predictionTensors(definition: Definition): [ExpectedTensor, ...ExpectedTensor[]] {
  return [samples(definition), truth(definition, 'optional')];
}

function samples({ model }: Definition): ExpectedTensor {
  return {
    name: HOSTED_TENSOR.samples,
    layer: null,
    shape: ['B', ...model.input],
    dtypes: FLOATING_DTYPES,
    presence: 'required',
  };
}

function truth({ model, loss }: Definition, presence: ExpectedTensor['presence']): ExpectedTensor {
  const name = HOSTED_TENSOR.truth;
  return truthKind(loss) === 'labels'
    ? { name, layer: null, shape: ['B'], dtypes: INDEX_DTYPES, presence }
    : { name, layer: null, shape: ['B', modelOutputs(model)], dtypes: FLOATING_DTYPES, presence };
}

function sampleWeights(): ExpectedTensor {
  return {
    name: HOSTED_TENSOR.sampleWeights,
    layer: null,
    shape: ['B'],
    dtypes: FLOATING_DTYPES,
    presence: 'optional',
  };
}
