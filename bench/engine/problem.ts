/** What every contender computes: the DDPNOpt step of a dense network on one batch, and what that costs in operations. */
import { seededRandom } from '../../shared/random.ts';

export interface Problem {
  readonly name: string;
  readonly widths: readonly number[];
  readonly batch: number;
  /** Steps between two factorisations of the Kronecker factors. */
  readonly refreshEvery: number;
  /** φ_i, [B]. */
  readonly losses: Float32Array;
  /** In the order of the forward pass: activations [B, n] and gradients in the pre-activations [B, c]. */
  readonly layers: readonly { readonly input: Float32Array; readonly gradient: Float32Array }[];
}

/** Random activations, half of them zero as after a ReLU, and random gradients: the cost of a step does not depend on them. */
export function denseProblem(widths: readonly number[], batch: number, refreshEvery: number): Problem {
  const random = seededRandom(1);
  const filled = (length: number, value: () => number): Float32Array => Float32Array.from({ length }, value);
  const layers = widths.slice(1).map((outputs, t) => ({
    input: filled(batch * (widths[t] ?? 0), () => Math.max(0, 2 * random() - 1)),
    gradient: filled(batch * outputs, () => 0.1 * (2 * random() - 1)),
  }));
  const losses = filled(batch, () => 0.5 + random());
  return { name: `${widths.join('-')}, B = ${String(batch)}`, widths, batch, refreshEvery, losses, layers };
}

/**
 * Floating-point operations of a step with the Kronecker metric and coupling `feedback`, products of matrices and factorisations
 * only. For each layer with n inputs (and the bias) and c outputs:
 *
 *     factors XᵀX, GᵀG        2B(n² + c²)
 *     X T_a, G T_g            2B(n² + c²)
 *     Gram matrices           2B²(n + c)
 *     Cholesky factor of S    B³/3
 *
 * and, every `refreshEvery` steps, L and L⁻¹ of both factors, ⅔(n³ + c³). Symmetric products count in full.
 */
export function operations({ widths, batch: B }: Problem): { readonly step: number; readonly refresh: number } {
  let step = 0;
  let refresh = 0;
  for (const [t, c] of widths.slice(1).entries()) {
    const n = (widths[t] ?? 0) + 1;
    step += 4 * B * (n * n + c * c) + 2 * B * B * (n + c) + B ** 3 / 3;
    refresh += (2 / 3) * (n ** 3 + c ** 3);
  }
  return { step, refresh };
}
