/** The stateless sibling of `kernel` mode, for batches that the edge does not solve itself. */
import { readHeader, encode, SAFETENSORS_CONTENT_TYPE, type NamedTensor } from '../../shared/safetensors.ts';
import { decodeSolve, SOLVE_TENSOR, type KernelSolveOptions } from '../../shared/kernel-solve.ts';
import type { TerminalCurvature } from '../../shared/optimizer.ts';
import { packLower, triangleSize, unpackSymmetric } from '../../shared/triangle.ts';
import type { CoefficientSolver } from '../optimizer/ddp/coefficients.ts';
import type { StageKernel } from '../optimizer/ddp/stage.ts';
import { openLoop, stageSolvers, assertSolvable } from '../optimizer/kernel-step.ts';
import { terminalWeights } from '../optimizer/losses/terminal-curvature.ts';
import { tensorsIn, type Engine, type Tensor } from '../tensor/engine.ts';
import type { Answer } from './trainer.ts';

/** @throws ProblemError the codes of `decodeSolve`, `numerical_failure` */
export function solveKernels(engine: Engine, body: Uint8Array, options: KernelSolveOptions): Answer {
  const { batch, losses, grams } = decodeSolve(body, readHeader(body), engine.precision);
  const { learningRate, coupling, reply, lossFloor: floor, lossCeiling: ceiling } = options;
  const terminalCurvature: TerminalCurvature = { kind: 'gradient', lossScale: { floor, ceiling } };
  const tensors = engine.scope(() => {
    const h = terminalWeights(engine, terminalCurvature, engine.tensor(losses, [batch]));
    const stages = grams.map((gram): StageKernel => {
      const kernel = engine.tensor(unpackSymmetric(gram, batch), [batch, batch]);
      return { kernel, plainPrediction: null, learningRate };
    });
    const recursion = {
      terminalCurvature,
      coupling,
      batchCoupling: 'full',
      valueRegularization: 0,
      solver: { choleskyRows: Infinity, iterations: 1 },
    } as const;
    const solvers = stageSolvers(engine, stages, h, batch, recursion, reply);
    const predict = coupling === 'gauss-newton-step' ? 'linear' : 'none';
    const kappas = reply === 'coefficients' ? openLoop(engine, stages, solvers, predict, false).kappas : [];
    const finite = solvers.map((solver, t) =>
      engine.isFinite([...tensorsIn([solver, kappas[t] ?? []], engine.isTensor)]),
    );
    const target = engine.divide(1, h);
    engine.evaluate([solvers, kappas, finite, target]);
    assertSolvable(engine, finite, (t) => ({ param: SOLVE_TENSOR.grams, stage: `stage ${String(t)}` }));
    return reply === 'coefficients'
      ? [stacked(engine, SOLVE_TENSOR.coefficients, kappas.map((kappa) => engine.read(kappa)), batch)] // prettier-ignore
      : [
          stacked(engine, SOLVE_TENSOR.cholesky, solvers.map((solver) => packLower(engine.read(factorOf(solver)), batch)), triangleSize(batch)), // prettier-ignore
          { name: SOLVE_TENSOR.target, shape: [batch], values: engine.read(target) },
        ];
  });
  return { contentType: SAFETENSORS_CONTENT_TYPE, body: encode(tensors) };
}

function factorOf(solver: CoefficientSolver): Tensor {
  if (solver.kind === 'cholesky') return solver.factor;
  throw new TypeError('a system is handed out with its Cholesky factor');
}

/** One row per stage. */
function stacked(engine: Engine, name: string, rows: readonly NamedTensor['values'][], width: number): NamedTensor {
  const length = rows.length * width;
  const values = engine.precision === 'float64' ? new Float64Array(length) : new Float32Array(length);
  rows.forEach((row, t) => {
    values.set(row, t * width);
  });
  return { name, shape: [rows.length, width], values };
}
