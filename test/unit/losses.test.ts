/** Every loss: gradient and Hessian against finite differences, curvature samples against the Hessian, weights, float32. */
import { describe, expect, it } from 'vitest';
import { expandLoss, type Truth } from '../../gpu-worker/optimizer/losses/loss.ts';
import { maxMahalanobisCentres } from '../../gpu-worker/optimizer/losses/max-mahalanobis-centre.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { lossProblems, lossSchema, truthKind, type Loss, type LossInput } from '../../shared/loss.ts';
import { optimizerSchema } from '../../shared/optimizer.ts';
import { derivedSeed, gaussian, seededRandom } from '../../shared/random.ts';

const reference = await loadEngine('reference');
const wasm = await loadEngine('wasm');

const LOSSES: readonly LossInput[] = [
  { kind: 'softmax-cross-entropy' },
  { kind: 'softmax-cross-entropy', labelSmoothing: 0.2, classWeights: [0.5, 2, 1, 0] },
  { kind: 'mse' },
  { kind: 'logistic' },
  { kind: 'logistic', classWeights: [1, 3, 0.25, 2] },
  { kind: 'multi-margin' },
  { kind: 'multi-margin', power: 1, margin: 2 },
  { kind: 'multi-margin', margin: 0.7, classWeights: [1, 2, 3, 4] },
  { kind: 'max-mahalanobis-centre', classes: 5 },
  { kind: 'max-mahalanobis-centre', classes: 3, scale: 2, classWeights: [1, 2, 3] },
];
const B = 5;
const C = 4;

function scenario(loss: Loss, seed: number, weighted: boolean): { output: Float64Array; truth: Truth } {
  const random = seededRandom(seed);
  const output = Float64Array.from({ length: B * C }, () => 1.5 * gaussian(random));
  const classes = loss.kind === 'max-mahalanobis-centre' ? loss.classes : C;
  const values =
    truthKind(loss) === 'labels'
      ? Array.from({ length: B }, () => Math.floor(random() * classes))
      : Array.from({ length: B * C }, random);
  return { output, truth: { values, sampleWeights: weighted ? Array.from({ length: B }, () => 2 * random()) : null } };
}

function valuesAndGradient(loss: Loss, output: Float64Array, truth: Truth, engine = reference) {
  return engine.scope(() => {
    const expansion = expandLoss(engine, loss, engine.tensor(output, [B, C]), truth);
    return { values: engine.read(expansion.values), gradient: engine.read(expansion.gradient) };
  });
}

/** S Sᵀ per sample, [B, C, C]. */
function hessian(loss: Loss, output: Float64Array, truth: Truth, engine = reference) {
  return engine.scope(() => {
    const S = expandLoss(engine, loss, engine.tensor(output, [B, C]), truth).factor();
    return engine.read(engine.matMul(S, S, { transposeRight: true }));
  });
}

describe.each(LOSSES.map((input, index) => ({ name: `${input.kind} ${index}`, loss: lossSchema.parse(input) })))(
  '$name',
  ({ loss }) => {
    const STEP = 1e-5;

    it.each([false, true])('gradient and Hessian are the finite differences (sample weights: %s)', (weighted) => {
      const { output, truth } = scenario(loss, 11, weighted);
      const { gradient } = valuesAndGradient(loss, output, truth);
      const H = hessian(loss, output, truth);
      for (let k = 0; k < C; k++) {
        const moved = (by: number) => {
          const at = output.map((value, index) => (index % C === k ? value + by : value));
          return valuesAndGradient(loss, at, truth);
        };
        const [ahead, behind] = [moved(STEP), moved(-STEP)];
        for (let i = 0; i < B; i++) {
          const slope = (ahead.values[i]! - behind.values[i]!) / (2 * STEP);
          expect(Math.abs(gradient[i * C + k]! - slope)).toBeLessThan(1e-8);
          for (let j = 0; j < C; j++) {
            const curvature = (ahead.gradient[i * C + j]! - behind.gradient[i * C + j]!) / (2 * STEP);
            expect(Math.abs(H[(i * C + j) * C + k]! - curvature)).toBeLessThan(1e-8);
          }
        }
      }
    });

    it('float32 agrees', () => {
      const { output, truth } = scenario(loss, 12, true);
      const expected = valuesAndGradient(loss, output, truth);
      const actual = valuesAndGradient(loss, output, truth, wasm);
      const size = Math.max(1, ...expected.values);
      for (const key of ['values', 'gradient'] as const) {
        actual[key].forEach((value, i) => {
          expect(Math.abs(value - expected[key][i]!) / size).toBeLessThan(1e-6);
        });
      }
      const exact = hessian(loss, output, truth);
      hessian(loss, output, truth, wasm).forEach((value, i) => {
        expect(Math.abs(value - exact[i]!)).toBeLessThan(1e-5);
      });
    });

    it('sampled gradients have the Hessian as their mean outer product', () => {
      const { output, truth } = scenario(loss, 13, true);
      const H = hessian(loss, output, truth);
      const random = seededRandom(7);
      const draws = 20_000;
      const mean = new Float64Array(B * C * C);
      reference.scope(() => {
        const expansion = expandLoss(reference, loss, reference.tensor(output, [B, C]), truth);
        for (let draw = 0; draw < draws; draw++) {
          const s = reference.scope(() => reference.read(expansion.sampledGradient(random)));
          for (let i = 0; i < B; i++) {
            for (let j = 0; j < C; j++) {
              for (let k = 0; k < C; k++) mean[(i * C + j) * C + k]! += (s[i * C + j]! * s[i * C + k]!) / draws;
            }
          }
        }
      });
      // Five standard errors of a product of two numbers of the Hessian's size.
      const bound = (5 * 2 * Math.max(1e-9, ...H)) / Math.sqrt(draws);
      mean.forEach((value, index) => {
        expect(Math.abs(value - H[index]!)).toBeLessThan(bound);
      });
    });

    it('leaves nothing behind', () => {
      const { output, truth } = scenario(loss, 14, true);
      for (const engine of [reference, wasm]) {
        const before = engine.liveTensors;
        valuesAndGradient(loss, output, truth, engine);
        hessian(loss, output, truth, engine);
        expect(engine.liveTensors).toBe(before);
      }
    });
  },
);

describe('softmax cross-entropy', () => {
  const loss = lossSchema.parse({ kind: 'softmax-cross-entropy' });

  it('stays finite for outputs that would overflow', () => {
    for (const engine of [reference, wasm]) {
      const output = Float64Array.from({ length: B * C }, (_, index) => (index % C === 0 ? 1e4 : -1e4));
      const { values, gradient } = valuesAndGradient(
        loss,
        output,
        { values: [0, 1, 0, 2, 3], sampleWeights: null },
        engine,
      );
      expect([...values]).toEqual([0, 2e4, 0, 2e4, 2e4]);
      expect(gradient.every(Number.isFinite)).toBe(true);
    }
  });

  it('draws the same labels from the same seed', () => {
    const { output, truth } = scenario(loss, 3, false);
    const draw = (seed: number) =>
      reference.scope(() => {
        const expansion = expandLoss(reference, loss, reference.tensor(output, [B, C]), truth);
        return [...reference.read(expansion.sampledGradient(seededRandom(derivedSeed(seed, 4))))];
      });
    expect(draw(1)).toEqual(draw(1));
    expect([2, 3, 4, 5].some((seed) => draw(seed).join() !== draw(1).join())).toBe(true);
  });
});

describe('max-Mahalanobis centres', () => {
  it.each([
    [2, 1],
    [3, 2],
    [10, 9],
    [10, 32],
  ])('%d centres in %d dimensions have one length and one pairwise angle', (classes, features) => {
    const centres = maxMahalanobisCentres(classes, features, 10);
    for (let i = 0; i < classes; i++) {
      for (let j = 0; j <= i; j++) {
        let inner = 0;
        for (let k = 0; k < features; k++) inner += centres[i * features + k]! * centres[j * features + k]!;
        expect(inner).toBeCloseTo(i === j ? 100 : -100 / (classes - 1), 9);
      }
    }
  });
});

describe('what a loss refuses', () => {
  const curvature = (input: object) => optimizerSchema.parse({ terminalCurvature: input }).terminalCurvature;
  const gradient = curvature({ kind: 'gradient' });

  it.each([
    [{ kind: 'max-mahalanobis-centre', classes: 9 }, gradient, 'loss.classes'],
    [{ kind: 'softmax-cross-entropy', classWeights: [1, 2] }, gradient, 'loss.classWeights'],
    [{ kind: 'multi-margin', power: 1 }, curvature({ kind: 'sampled-fisher' }), 'loss.power'],
    [{ kind: 'mse' }, curvature({ kind: 'gauss-newton', columns: 3 }), 'optimizer.terminalCurvature.columns'],
  ] as const)('%o', (input, terminalCurvature, field) => {
    const problems = lossProblems(lossSchema.parse(input), C, terminalCurvature);
    expect(problems.map(({ path }) => path.join('.'))).toEqual([field]);
  });

  it('takes what fits', () => {
    for (const input of LOSSES) {
      expect(lossProblems(lossSchema.parse(input), C, gradient)).toEqual([]);
    }
  });

  it.each([4, -1, 0.5])('the label %d', (label) => {
    const loss = lossSchema.parse({ kind: 'softmax-cross-entropy' });
    const truth = { values: [0, 1, label, 0, 0], sampleWeights: null };
    expect(() => valuesAndGradient(loss, new Float64Array(B * C), truth)).toThrow(/from 0 to 3/);
  });
});
