/** Random bodies of steps: what a step takes does not depend on the values. */
import { modelOutputs } from '../../shared/model.ts';
import { classCount, truthKind } from '../../shared/loss.ts';
import { seededRandom } from '../../shared/random.ts';
import { encode } from '../../shared/safetensors.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import type { LayersDefinition } from '../../shared/layers-definition.ts';
import { elementCount } from '../../shared/shape.ts';
import { expectedTensors } from '../../shared/step.ts';
import type { Axis } from '../../shared/expected-tensor.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { HOSTED_TENSOR, hostedStepTensors } from '../../shared/hosted-tensors.ts';

/** A session in `layers` or `hosted` mode. */
export type Trained = LayersDefinition | HostedDefinition;

export interface BodySizes {
  /** B. */
  readonly batch: number;
  /** S, of every layer with an axis of positions. */
  readonly positions: number;
}

/** A body that a step of the session takes, optional tensors left out. */
export function randomStepBody(definition: Trained, sizes: BodySizes, seed: number): Uint8Array<ArrayBuffer> {
  const random = seededRandom(seed);
  const tensors = definition.mode === 'hosted' ? hostedStepTensors(definition) : expectedTensors(definition);
  const required = tensors.filter(({ presence }) => presence === 'required');
  return encode(
    required.map((tensor) => {
      const shape = tensor.shape.map((axis) => lengthOf(axis, sizes));
      const draw = drawer(definition, tensor.name, random);
      return { name: tensor.name, shape, values: Float32Array.from({ length: elementCount(shape) }, draw) };
    }),
  );
}

function lengthOf(axis: Axis, { batch, positions }: BodySizes): number {
  if (axis === 'B') return batch;
  if (axis === 'S') return positions;
  // Of what either mode requires nothing is a triangle.
  if (typeof axis !== 'number') throw new TypeError('a triangle of the batch in a required tensor');
  return axis;
}

function drawer(definition: Trained, name: string, random: () => number): () => number {
  const index = (count: number) => () => Math.floor(count * random());
  if (definition.mode === 'hosted') {
    const isLabel = name === HOSTED_TENSOR.truth && truthKind(definition.loss) === 'labels';
    return isLabel ? index(classCount(definition.loss, modelOutputs(definition.model))) : random;
  }
  const embedding = definition.layers.find((layer) => layer.kind === 'embedding' && TENSOR.input(layer.name) === name);
  if (embedding?.kind === 'embedding') return index(embedding.inputs);
  return name === TENSOR.losses ? random : () => random() - 0.5;
}
