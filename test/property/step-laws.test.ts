/** Laws of the step, over random batches of any scale: S_t is positive definite, and the order of the samples is immaterial. */
import fc from 'fast-check';
import { expect, it, describe } from 'vitest';
import { terminalWeights } from '../../gpu-worker/optimizer/losses/terminal-curvature.ts';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep, type StepBatch, type StepConfiguration } from '../../gpu-worker/optimizer/step.ts';
import { tensorsIn, type Engine, type Tensor } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { layersDefinitionSchema, replyForm } from '../../shared/layers-definition.ts';

const engine = await loadEngine('reference');

interface Sample {
  readonly loss: number;
  readonly layers: readonly { input: readonly number[]; outputGradient: readonly number[] }[];
}

interface Problem {
  readonly widths: readonly { inputs: number; outputs: number }[];
  readonly samples: readonly Sample[];
  readonly configuration: StepConfiguration;
}

const number = fc.double({ min: -10, max: 10, noNaN: true });
const vector = (length: number): fc.Arbitrary<number[]> => fc.array(number, { minLength: length, maxLength: length });

const problem: fc.Arbitrary<Problem> = fc
  .record({
    widths: fc.array(fc.record({ inputs: fc.integer({ min: 1, max: 4 }), outputs: fc.integer({ min: 1, max: 3 }) }), {
      minLength: 1,
      maxLength: 3,
    }),
    metric: fc.constantFrom({ kind: 'identity' as const }, { kind: 'kronecker' as const, damping: 0.01 }),
    coupling: fc.constantFrom('layerwise' as const, 'value' as const, 'feedback' as const),
    lossScale: fc.constantFrom(null, { floor: 0.5, ceiling: 100 }),
    learningRate: fc.double({ min: 1e-3, max: 100, noNaN: true }),
  })
  .chain(({ widths, metric, coupling, lossScale, learningRate }) => {
    const definition = layersDefinitionSchema.parse({
      layers: widths.map((sizes, t) => ({ name: `layer${String(t)}`, kind: 'dense', ...sizes })),
      optimizer: {
        learningRate: { kind: 'constant', value: learningRate },
        metric,
        terminalCurvature: { kind: 'gradient', lossScale },
        coupling,
      },
    });
    const { layers, optimizer } = definition;
    const sample = fc.record({
      loss: fc.double({ min: 0, max: 20, noNaN: true }),
      layers: fc.tuple(
        ...widths.map(({ inputs, outputs }) => fc.record({ input: vector(inputs), outputGradient: vector(outputs) })),
      ),
    });
    return fc.record({
      widths: fc.constant(widths),
      samples: fc.array(sample, { minLength: 1, maxLength: 6 }),
      configuration: fc.constant({ layers, optimizer, reply: replyForm(definition) }),
    });
  });

function upload({ widths, samples }: Pick<Problem, 'widths' | 'samples'>, on: Engine = engine): StepBatch {
  const stack = (rows: readonly (readonly number[])[]): Tensor =>
    on.tensor(rows.flat(), [rows.length, rows[0]!.length]);
  return {
    losses: on.tensor(
      samples.map(({ loss }) => loss),
      [samples.length],
    ),
    previousLosses: null,
    layers: widths.map((_, t) => ({
      input: stack(samples.map(({ layers }) => layers[t]!.input)),
      lossGradient: stack(samples.map(({ layers }) => layers[t]!.outputGradient)),
      columnGradient: null,
      parameters: {},
    })),
  };
}

/** Everything a step returns that does not depend on a numbering of the samples: updates, or what the policies amount to. */
function orderFree(samples: readonly Sample[], { widths, configuration }: Problem): number[] {
  return engine.scope(() => {
    const { reply } = ddpStep(
      engine,
      { ...configuration, reply: 'update' },
      INITIAL_STATE,
      upload({ widths, samples }),
    );
    if (reply.kind !== 'update') throw new Error('no update');
    return reply.changes.flatMap((changes) => Object.values(changes).flatMap((change) => [...engine.read(change)]));
  });
}

describe('the step', () => {
  it('has S_t positive definite: every Cholesky factor exists, and its smallest pivot is at least √(B/h)', () => {
    fc.assert(
      fc.property(problem, ({ widths, samples, configuration }) => {
        engine.scope(() => {
          const batch = upload({ widths, samples });
          const h = engine.read(terminalWeights(engine, configuration.optimizer.terminalCurvature, batch.losses));
          const { reply } = ddpStep(engine, { ...configuration, reply: 'policy' }, INITIAL_STATE, batch);
          if (reply.kind !== 'policy') throw new Error('no policy');
          for (const { solver } of reply.policies) {
            if (solver.kind !== 'cholesky') throw new Error('no Cholesky factor');
            const factor = engine.read(solver.factor);
            for (const [i, weight] of h.entries()) {
              const pivot = factor[i * samples.length + i]!;
              expect(pivot).toBeGreaterThanOrEqual(Math.sqrt(samples.length / weight) * (1 - 1e-9));
            }
          }
        });
      }),
      { seed: 1, numRuns: 200 },
    );
  });

  it('does not depend on the order of the samples', () => {
    fc.assert(
      fc.property(problem, fc.integer(), (p, rotation) => {
        const turn = ((rotation % p.samples.length) + p.samples.length) % p.samples.length;
        const rotated = [...p.samples.slice(turn), ...p.samples.slice(0, turn)].toReversed();
        const original = orderFree(p.samples, p);
        const reordered = orderFree(rotated, p);
        const size = Math.max(...original.map(Math.abs), 1e-12);
        for (const [index, value] of original.entries()) {
          expect(Math.abs(reordered[index]! - value) / size).toBeLessThan(1e-6);
        }
      }),
      { seed: 2, numRuns: 200 },
    );
  });

  it('leaves no tensor behind, over 1,000 steps and after a refused one', () => {
    const before = engine.liveTensors;
    const [sampled] = fc.sample(problem, { seed: 3, numRuns: 1 });
    let state = INITIAL_STATE;
    for (let step = 0; step < 1000; step++) {
      const next = engine.scope(() => ddpStep(engine, sampled!.configuration, state, upload(sampled!)).state);
      const kept = tensorsIn(next, engine.isTensor);
      engine.dispose([...tensorsIn(state, engine.isTensor)].filter((tensor) => !kept.has(tensor)));
      state = next;
    }
    const overflowing = sampled!.samples.map((sample) => ({
      ...sample,
      layers: sample.layers.map(({ input, outputGradient }) => ({
        input: input.map(() => 1e200),
        outputGradient: outputGradient.map(() => 1e200),
      })),
    }));
    const held = engine.liveTensors;
    expect(() =>
      engine.scope(() => ddpStep(engine, sampled!.configuration, state, upload({ ...sampled!, samples: overflowing }))),
    ).toThrow(/numerical_failure/);
    expect(engine.liveTensors).toBe(held);
    engine.dispose(tensorsIn(state, engine.isTensor));
    expect(engine.liveTensors).toBe(before);
  });
});
