/**
 * A multilayer perceptron with relu activations and softmax cross-entropy, in plain loops: the client's own model, of which the
 * service sees only the layers' inputs and output gradients.
 */
import type { MiniBatch } from './data.ts';
import { gaussian, type Random } from '../../shared/random.ts';

/** pre-activation = input · weight + bias; weight [inputs, outputs], row-major. */
export interface DenseParameters {
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly weight: Float32Array;
  readonly bias: Float32Array;
}

/** What a forward pass leaves behind, per layer: its input x_t [B, n] and its pre-activation [B, c]. */
interface LayerTrace {
  readonly input: Float32Array;
  readonly preActivation: Float32Array;
}

export interface ForwardPass {
  readonly layers: readonly LayerTrace[];
  /** Softmax of the last pre-activation, [B, classes]. */
  readonly probabilities: Float32Array;
  /** Per-sample cross-entropy, [B]. */
  readonly losses: Float32Array;
}

export class MultilayerPerceptron {
  readonly layers: readonly DenseParameters[];

  private constructor(layers: readonly DenseParameters[]) {
    this.layers = layers;
  }

  /** A network with He-initialised weights (normal, variance 2/inputs) and zero biases. */
  static initialise(widths: readonly number[], random: Random): MultilayerPerceptron {
    const layers = widths.slice(1).map((outputs, t): DenseParameters => {
      const inputs = widths[t] ?? 0;
      const deviation = Math.sqrt(2 / inputs);
      const weight = Float32Array.from({ length: inputs * outputs }, () => deviation * gaussian(random));
      return { name: `dense${String(t + 1)}`, inputs, outputs, weight, bias: new Float32Array(outputs) };
    });
    return new MultilayerPerceptron(layers);
  }

  clone(): MultilayerPerceptron {
    return new MultilayerPerceptron(
      this.layers.map((layer) => ({ ...layer, weight: layer.weight.slice(), bias: layer.bias.slice() })),
    );
  }

  forward({ inputs, labels }: MiniBatch): ForwardPass {
    const traces: LayerTrace[] = [];
    let input = inputs;
    for (const [t, layer] of this.layers.entries()) {
      const preActivation = affine(input, layer);
      traces.push({ input, preActivation });
      input = this.activate(t, preActivation);
    }
    return { layers: traces, ...this.terminalCost(input, labels) };
  }

  /** Relu after every layer but the last. */
  activate(t: number, preActivation: Float32Array): Float32Array {
    return t === this.layers.length - 1 ? preActivation : preActivation.map((value) => Math.max(0, value));
  }

  /** Softmax cross-entropy of the logits [B, classes]. */
  terminalCost(logits: Float32Array, labels: Uint8Array): { probabilities: Float32Array; losses: Float32Array } {
    const classes = logits.length / labels.length;
    const probabilities = new Float32Array(logits.length);
    const losses = new Float32Array(labels.length);
    for (const [i, label] of labels.entries()) {
      const row = logits.subarray(i * classes, (i + 1) * classes);
      const largest = Math.max(...row);
      const exponentials = row.map((value) => Math.exp(value - largest));
      const sum = exponentials.reduce((total, value) => total + value, 0);
      losses[i] = Math.log(sum) + largest - (row[label] ?? Number.NaN);
      probabilities.set(
        exponentials.map((value) => value / sum),
        i * classes,
      );
    }
    return { probabilities, losses };
  }

  /** Per layer, the gradients of each sample's own loss in the pre-activation, [B, c]; not divided by B. */
  backward({ layers, probabilities }: ForwardPass, labels: Uint8Array): Float32Array[] {
    const classes = probabilities.length / labels.length;
    let gradient = probabilities.slice();
    for (const [i, label] of labels.entries()) {
      const index = i * classes + label;
      gradient[index] = (gradient[index] ?? 0) - 1;
    }
    const gradients: Float32Array[] = [];
    for (let t = this.layers.length - 1; t >= 0; t--) {
      gradients.unshift(gradient);
      const layer = this.layers[t];
      const below = layers[t - 1];
      if (layer === undefined || below === undefined) break;
      const { preActivation } = below;
      gradient = throughWeights(gradient, layer).map((value, index) => ((preActivation[index] ?? 0) > 0 ? value : 0));
    }
    return gradients;
  }

  /** Mean loss and share of correct answers on a data set. */
  evaluate(data: MiniBatch): { loss: number; accuracy: number } {
    const { probabilities, losses } = this.forward(data);
    const classes = probabilities.length / data.size;
    let correct = 0;
    for (const [i, label] of data.labels.entries()) {
      const row = probabilities.subarray(i * classes, (i + 1) * classes);
      if (row.indexOf(Math.max(...row)) === label) correct++;
    }
    return { loss: losses.reduce((sum, loss) => sum + loss, 0) / data.size, accuracy: correct / data.size };
  }
}

/** input · weight + bias: [B, n] → [B, c]. */
export function affine(input: Float32Array, { inputs, outputs, weight, bias }: DenseParameters): Float32Array {
  const batch = input.length / inputs;
  const result = new Float32Array(batch * outputs);
  for (let i = 0; i < batch; i++) {
    result.set(bias, i * outputs);
    for (let k = 0; k < inputs; k++) {
      const value = input[i * inputs + k] ?? 0;
      if (value === 0) continue;
      for (let j = 0; j < outputs; j++) {
        result[i * outputs + j] = (result[i * outputs + j] ?? 0) + value * (weight[k * outputs + j] ?? 0);
      }
    }
  }
  return result;
}

/** gradient · weightᵀ: [B, c] → [B, n]. */
function throughWeights(gradient: Float32Array, { inputs, outputs, weight }: DenseParameters): Float32Array {
  const batch = gradient.length / outputs;
  const result = new Float32Array(batch * inputs);
  for (let i = 0; i < batch; i++) {
    for (let k = 0; k < inputs; k++) {
      let sum = 0;
      for (let j = 0; j < outputs; j++) sum += (gradient[i * outputs + j] ?? 0) * (weight[k * outputs + j] ?? 0);
      result[i * inputs + k] = sum;
    }
  }
  return result;
}
