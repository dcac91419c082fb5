/**
 * The dense oracle for the Python client's tests: problems as lines of JSON on standard input, policies on standard output.
 *
 * From stage t on, with what the stages before have done to the samples' outputs as s [B], the control problem is one damped
 * least-squares problem in the parameters of all stages that are left:
 *
 *     (blockdiag(R_t, …) + (1/B) 𝒥ᵀ H 𝒥) (δu_t; …) = −(1/B) 𝒥ᵀ (1 + h ∘ s),    𝒥 = [J_t, …, J_{T−1}]
 *
 * and by Bellman's principle its first block is the policy of stage t, δu_t = k + K s. Explicit matrices, float64.
 */
import { createInterface } from 'node:readline';
import * as z from 'zod';
import { terminalWeights } from '../oracle/bellman.ts';
import { stagesOf, type LayerBatchOracle, type LayerOracle } from '../oracle/layers.ts';
import { add, at, blockDiagonal, build, multiply, scale, solve, stackColumns, transpose } from '../oracle/matrix.ts';
import { element } from '../oracle/network.ts';

const numbers = z.array(z.array(z.number()));
const problemSchema = z.object({
  layers: z.array(z.custom<LayerOracle>()),
  /** Oldest first; the metrics average over all of them but so many of the newest, and the policies are for the last. */
  lag: z.int(),
  batches: z.array(
    z.object({ losses: z.array(z.number()), layers: z.array(z.object({ inputs: numbers, gradients: numbers })) }),
  ),
  metric: z.discriminatedUnion('kind', [
    z.object({ kind: z.literal('identity') }),
    z.object({ kind: z.literal('kronecker'), decay: z.number(), damping: z.number() }),
  ]),
  learningRate: z.number(),
  lossScale: z.object({ floor: z.number(), ceiling: z.number() }),
});

function policiesOf(problem: z.output<typeof problemSchema>): { k: number[]; K: number[][] }[] {
  const batches = problem.batches.map(({ losses, layers }) => ({
    h: terminalWeights(Float64Array.from(losses), problem.lossScale),
    layers: layers.map(({ inputs, gradients }): LayerBatchOracle => ({
      inputs: inputs.map((x) => Float64Array.from(x)),
      lossGradients: gradients.map((g) => Float64Array.from(g)),
      columnGradients: null,
    })),
  }));
  const { layers, metric, learningRate, lag } = problem;
  const latest = stagesOf(layers, batches, { kind: 'identity' }, learningRate);
  const averaged = stagesOf(layers, batches.slice(0, batches.length - lag), metric, learningRate);
  const stages = latest.map(({ J }, t) => ({ J, R: element(averaged, t).R }));
  const { h } = element(batches, batches.length - 1);
  const B = h.length;
  return stages.map(({ R }, t) => {
    const rest = stages.slice(t);
    const J = stackColumns(rest.map((stage) => stage.J));
    const HJ = build(B, J.cols, (i, j) => (element(h, i) / B) * at(J, i, j));
    const Q = add(blockDiagonal(rest.map((stage) => stage.R)), multiply(transpose(J), HJ));
    // One column for s = 0, and one for every sample's share of s.
    const right = build(B, 1 + B, (i, j) => (j === 0 ? 1 : j === i + 1 ? element(h, i) : 0) / B);
    const solution = solve(Q, scale(multiply(transpose(J), right), -1));
    const m = R.rows;
    return {
      k: Array.from({ length: m }, (_, row) => at(solution, row, 0)),
      K: Array.from({ length: m }, (_, row) => Array.from({ length: B }, (_column, i) => at(solution, row, i + 1))),
    };
  });
}

for await (const line of createInterface(process.stdin)) {
  process.stdout.write(`${JSON.stringify(policiesOf(problemSchema.parse(JSON.parse(line))))}\n`);
}
