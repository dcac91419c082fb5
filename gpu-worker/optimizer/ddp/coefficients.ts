/**
 * The coefficients κ_t of a stage's policy: one weight per row of J_t.
 *
 * Small systems are factorised (Cholesky). Large ones, whose factorisation would dominate the step, are solved by conjugate
 * gradients with Jacobi preconditioning (Hestenes & Stiefel, 1952), with a fixed number of iterations.
 */
import type { BatchSolver } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import type { StageSystem } from './stage.ts';

/** A system made ready to be solved for any s_t. */
export type CoefficientSolver =
  | { readonly kind: 'cholesky'; readonly factor: Tensor; readonly target: Tensor }
  | {
      readonly kind: 'conjugate-gradient';
      readonly S: Tensor;
      readonly target: Tensor;
      readonly iterations: number;
    }
  | { readonly kind: 'diagonal'; readonly gain: Tensor; readonly offset: Tensor };

export function prepareSolver(engine: Engine, system: StageSystem, solver: BatchSolver): CoefficientSolver {
  if (system.kind === 'diagonal') return system;
  const { S, target } = system;
  const rows = target.shape[0] ?? 0;
  if (rows > solver.choleskyRows) return { kind: 'conjugate-gradient', S, target, iterations: solver.iterations };
  return { kind: 'cholesky', factor: engine.cholesky(S), target };
}

/**
 * κ_t for a predicted change s_t.
 *
 * @param predictedChange s_t, [R]; null for 0
 */
export function coefficients(engine: Engine, solver: CoefficientSolver, predictedChange: Tensor | null): Tensor {
  const { add, choleskySolve, multiply } = engine;
  const plusChange = (tensor: Tensor): Tensor => (predictedChange === null ? tensor : add(tensor, predictedChange));
  switch (solver.kind) {
    case 'cholesky':
      return choleskySolve(solver.factor, plusChange(solver.target));
    case 'conjugate-gradient':
      return conjugateGradient(engine, solver.S, plusChange(solver.target), solver.iterations);
    case 'diagonal':
      return predictedChange === null ? solver.offset : add(solver.offset, multiply(solver.gain, predictedChange));
  }
}

/** x with S x ≈ b after a fixed number of iterations, preconditioned by the diagonal of S. */
function conjugateGradient(engine: Engine, S: Tensor, b: Tensor, iterations: number): Tensor {
  const { add, diagonalOf, divide, matMul, maximum, multiply, reshape, subtract, sum } = engine;
  const rows = b.shape[0] ?? 0;
  const dot = (x: Tensor, y: Tensor): Tensor => sum(multiply(x, y), 0);
  // Once the residual is zero to rounding, 0/0 must not turn the solution into NaN.
  const ratio = (numerator: Tensor, denominator: Tensor): Tensor => divide(numerator, maximum(denominator, 1e-37));
  const diagonal = diagonalOf(S);
  let x = multiply(b, 0);
  let residual = b;
  let preconditioned = divide(residual, diagonal);
  let direction = preconditioned;
  let product = dot(residual, preconditioned);
  for (let iteration = 0; iteration < iterations; iteration++) {
    const image = reshape(matMul(S, reshape(direction, [rows, 1])), [rows]);
    const length = ratio(product, dot(direction, image));
    x = add(x, multiply(length, direction));
    residual = subtract(residual, multiply(length, image));
    preconditioned = divide(residual, diagonal);
    const nextProduct = dot(residual, preconditioned);
    direction = add(preconditioned, multiply(ratio(nextProduct, product), direction));
    product = nextProduct;
  }
  return x;
}
