/** The error function in float64, which JavaScript lacks. */

/** erf x = 2/√π ∫₀ˣ e^−t² dt, to a few units in the last place (Abramowitz & Stegun, 7.1.6 and 7.1.14). */
export function erf(x: number): number {
  const size = Math.abs(x);
  if (Number.isNaN(x)) return x;
  return Math.sign(x) * (size < 2.5 ? series(size) : 1 - continuedFraction(size));
}

/** 2/√π e^−x² Σ_n 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1)): every term is positive, so that nothing cancels. */
function series(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** erfc x = e^−x²/√π · 1/(x + ½/(x + 1/(x + 3⁄2/(x + …)))), from the inside out. */
function continuedFraction(x: number): number {
  let fraction = x;
  for (let k = 60; k >= 1; k--) fraction = x + k / 2 / fraction;
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction;
}
