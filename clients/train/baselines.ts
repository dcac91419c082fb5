/** First-order baselines, run locally on the same network and batches: SGD with momentum, and Adam. */
import type { MiniBatch } from './data.ts';
import type { MultilayerPerceptron } from './multilayer-perceptron.ts';

export interface LocalOptimizer {
  readonly name: string;
  readonly learningRate: number;
  /** Takes one step on a mini-batch; returns its mean loss before the step. */
  readonly step: (network: MultilayerPerceptron, batch: MiniBatch) => number;
}

/** u ← u − η m with m ← μ m + ∇, as PyTorch's SGD. */
export function sgdWithMomentum(learningRate: number, momentum = 0.9): LocalOptimizer {
  const velocities = new Map<Float32Array, Float32Array>();
  return {
    name: 'SGD with momentum',
    learningRate,
    step: (network, batch) =>
      forEachParameter(network, batch, (parameter, gradient) => {
        const velocity = remembered(velocities, parameter);
        for (let index = 0; index < parameter.length; index++) {
          const value = momentum * (velocity[index] ?? 0) + (gradient[index] ?? 0);
          velocity[index] = value;
          parameter[index] = (parameter[index] ?? 0) - learningRate * value;
        }
      }),
  };
}

/** Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, with its recommended β₁, β₂ and ε. */
export function adam(learningRate: number, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8): LocalOptimizer {
  const first = new Map<Float32Array, Float32Array>();
  const second = new Map<Float32Array, Float32Array>();
  let count = 0;
  return {
    name: 'Adam',
    learningRate,
    step: (network, batch) => {
      count++;
      const correction1 = 1 - beta1 ** count;
      const correction2 = 1 - beta2 ** count;
      return forEachParameter(network, batch, (parameter, gradient) => {
        const m = remembered(first, parameter);
        const v = remembered(second, parameter);
        for (let index = 0; index < parameter.length; index++) {
          const g = gradient[index] ?? 0;
          const mean = beta1 * (m[index] ?? 0) + (1 - beta1) * g;
          const square = beta2 * (v[index] ?? 0) + (1 - beta2) * g * g;
          m[index] = mean;
          v[index] = square;
          const step = mean / correction1 / (Math.sqrt(square / correction2) + epsilon);
          parameter[index] = (parameter[index] ?? 0) - learningRate * step;
        }
      });
    },
  };
}

function remembered(store: Map<Float32Array, Float32Array>, parameter: Float32Array): Float32Array {
  let values = store.get(parameter);
  if (values === undefined) {
    values = new Float32Array(parameter.length);
    store.set(parameter, values);
  }
  return values;
}

/** Calls `apply` with every parameter and the gradient of the mean loss in it; returns that loss. */
function forEachParameter(
  network: MultilayerPerceptron,
  batch: MiniBatch,
  apply: (parameter: Float32Array, gradient: Float32Array) => void,
): number {
  const pass = network.forward(batch);
  const outputGradients = network.backward(pass, batch.labels);
  for (const [t, { weight, bias, inputs, outputs }] of network.layers.entries()) {
    const input = pass.layers[t]?.input ?? new Float32Array();
    const outputGradient = outputGradients[t] ?? new Float32Array();
    const weightGradient = new Float32Array(weight.length);
    const biasGradient = new Float32Array(bias.length);
    for (let i = 0; i < batch.size; i++) {
      for (let j = 0; j < outputs; j++) {
        const g = (outputGradient[i * outputs + j] ?? 0) / batch.size;
        biasGradient[j] = (biasGradient[j] ?? 0) + g;
        if (g === 0) continue;
        for (let k = 0; k < inputs; k++) {
          const index = k * outputs + j;
          weightGradient[index] = (weightGradient[index] ?? 0) + (input[i * inputs + k] ?? 0) * g;
        }
      }
    }
    apply(weight, weightGradient);
    apply(bias, biasGradient);
  }
  return pass.losses.reduce((sum, loss) => sum + loss, 0) / batch.size;
}
