/** Activations, feature by feature. Only values and gradients outlive them: what leads to these is as large, and made again. */
import type { ActivationName } from '../../shared/model-layer.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { timesPerSample, type Differentiable } from './pullback.ts';

/** @param x of any shape */
export function activation(engine: Engine, name: ActivationName, x: Tensor): Differentiable {
  const { add, erf, exp, isPositive, maximum, multiply, sigmoid, softplus, square, subtract, tanh } = engine;
  const withSlope = (value: Tensor, slope: () => Tensor): Differentiable => ({
    value,
    pullback: (rows) => engine.scope(() => timesPerSample(engine, rows, slope())),
  });
  switch (name) {
    case 'relu':
      return withSlope(maximum(x, 0), () => isPositive(x));
    case 'tanh': {
      const y = tanh(x);
      return withSlope(y, () => subtract(1, square(y)));
    }
    case 'sigmoid': {
      const y = sigmoid(x);
      return withSlope(y, () => multiply(y, subtract(1, y)));
    }
    case 'softplus':
      return withSlope(softplus(x), () => sigmoid(x));
    case 'gelu': {
      const phi = (): Tensor => multiply(0.5, add(1, erf(multiply(x, Math.SQRT1_2)))); // Φ(x)
      const density = (): Tensor => multiply(exp(multiply(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
      const value = engine.scope(() => multiply(x, phi()));
      return withSlope(value, () => add(phi(), multiply(x, density())));
    }
  }
}
