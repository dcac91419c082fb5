/** A session in `layers` mode: the caller runs its own model, and sends what each pass computed. */
import { replyForm } from '../../shared/layers-definition.ts';
import { PARAMETER_NAMES, type ParameterName } from '../../shared/parameter-names.ts';
import { encode, type NamedTensor, type TensorValues } from '../../shared/safetensors.ts';
import type { LayersSession, StepMetrics } from '../../shared/session.ts';
import { expectedTensors, type LayersStepTensor } from '../../shared/step.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import type { PolicyCoefficients } from './coefficients.ts';
import { LayerPolicy, type ParameterChanges } from './policy.ts';
import { ReplyTensors } from './reply-tensors.ts';
import { ClientSession } from './session.ts';
import type { RequestOptions } from './transport.ts';

/** What a forward and a backward pass over one batch yield for one layer; row-major. */
export interface LayerInput {
  /** What the layer was given, [B, …]; a generic layer has none. */
  readonly input?: TensorValues;
  /** Gradient of each sample's own loss in the layer's pre-activation (generic: in its parameters), not divided by B, [B, …]. */
  readonly outputGradient: TensorValues;
  /** The same for the r columns of the terminal curvature, [B, r, …]; with "gauss-newton" and "sampled-fisher". */
  readonly curvatureGradient?: TensorValues;
  /** The layer's parameters by name, in their own shapes; with weight decay. Those that do not decay may be left out. */
  readonly parameters?: Readonly<Partial<Record<ParameterName, TensorValues>>>;
}

/** What a forward and a backward pass over one batch yield. */
export interface StepInput {
  /** The loss of each sample, [B]. */
  readonly losses: TensorValues;
  /**
   * The losses of the same samples under the parameters before the last step, [B]; with learning rate "levenberg-marquardt", which
   * judges the last step by them. Not with the first step.
   */
  readonly previousLosses?: TensorValues;
  /** By layer name. */
  readonly layers: Readonly<Record<string, LayerInput>>;
}

interface Traffic {
  readonly metrics: StepMetrics;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** `policy`: to be applied in the second forward pass. `update`: to be added to the parameters. Both by layer name. */
export type StepReply =
  | (Traffic & { readonly kind: 'policy'; readonly policies: ReadonlyMap<string, LayerPolicy> })
  | (Traffic & { readonly kind: 'update'; readonly changes: ReadonlyMap<string, ParameterChanges> });

/** A session and the number of its next step. */
export class TrainingSession extends ClientSession<LayersSession> {
  /**
   * Takes one optimizer step; the next one must wait for its reply.
   *
   * After a DdpnoptError the step has not been counted: correct the input, or send it again. After a ConnectionError or an abort
   * it may have been: call `step` with the same input again, which the service applies only once, or `resynchronise` to give the
   * step up.
   *
   * @throws DdpnoptError, ConnectionError
   */
  step(input: StepInput, options: RequestOptions = {}): Promise<StepReply> {
    return this.takeStep(
      () => encode(this.#tensorsOf(input)),
      async (answer, bytesSent) => this.#readReply(new Uint8Array(await answer.arrayBuffer()), bytesSent),
      options,
    );
  }

  #tensorsOf(input: StepInput): NamedTensor[] {
    const batch = input.losses.length;
    return expectedTensors(this.session).flatMap((tensor): NamedTensor[] => {
      const { name, shape } = tensor;
      const values = valuesOf(input, tensor);
      if (values === undefined && tensor.presence === 'optional') return [];
      if (values === undefined) throw new RangeError(`the step lacks ${name}`);
      const known = shape.reduce<number>(
        (size, axis) => (axis === 'B' ? size * batch : axis === 'S' ? size : size * axis),
        1,
      );
      const sizes = shape.map((axis) => (axis === 'B' ? batch : axis === 'S' ? values.length / known : axis));
      return [{ name, shape: sizes, values }];
    });
  }

  #readReply(body: Uint8Array, bytesSent: number): StepReply {
    const reply = new ReplyTensors(body);
    const values = (name: string): TensorValues => reply.values(name);
    const traffic: Traffic = { metrics: reply.metrics(), bytesSent, bytesReceived: body.length };
    const { layers } = this.session;
    const changesOf = (layer: string): ParameterChanges => {
      const parameters = PARAMETER_NAMES.filter((parameter) => reply.has(TENSOR.update(layer, parameter)));
      return Object.fromEntries(parameters.map((parameter) => [parameter, values(TENSOR.update(layer, parameter))]));
    };
    switch (replyForm(this.session)) {
      case 'policy': {
        const policies = layers.map((layer): [string, LayerPolicy] => {
          if (layer.kind !== 'dense') throw new RangeError(`layer ${layer.name} has no policy`);
          const { name } = layer;
          const coefficients: PolicyCoefficients = reply.has(TENSOR.policyCholesky(name))
            ? {
                kind: 'cholesky',
                factor: values(TENSOR.policyCholesky(name)),
                target: values(TENSOR.policyTarget(name)),
              }
            : { kind: 'diagonal', gain: values(TENSOR.policyGain(name)), offset: values(TENSOR.policyOffset(name)) };
          const input = values(TENSOR.policyInput(name));
          const outputGradient = values(TENSOR.policyOutputGradient(name));
          return [name, new LayerPolicy(layer, { input, outputGradient, coefficients, fixedChange: changesOf(name) })];
        });
        return { kind: 'policy', ...traffic, policies: new Map(policies) };
      }
      case 'update': {
        const changes = layers.map(({ name }): [string, ParameterChanges] => [name, changesOf(name)]);
        return { kind: 'update', ...traffic, changes: new Map(changes) };
      }
    }
  }
}

function valuesOf({ losses, previousLosses, layers }: StepInput, tensor: LayersStepTensor): TensorValues | undefined {
  switch (tensor.role) {
    case 'losses':
      return losses;
    case 'previousLosses':
      return previousLosses;
    case 'input':
      return layers[tensor.layer]?.input;
    case 'lossGradient':
      return layers[tensor.layer]?.outputGradient;
    case 'columnGradient':
      return layers[tensor.layer]?.curvatureGradient;
    case 'parameter':
      return layers[tensor.layer]?.parameters?.[tensor.parameter];
  }
}
