/** Gradients of every kind of layer against finite differences, and float32 against float64. */
import { describe, expect, it } from 'vitest';
import { parameterBlocks, parameterChanges } from '../../gpu-worker/optimizer/layers/layer.ts';
import { weightedSum } from '../../gpu-worker/optimizer/layers/per-sample-gradients.ts';
import { initialWeights, type Weights } from '../../gpu-worker/model/parameters.ts';
import { compile } from '../../gpu-worker/model/program.ts';
import { backpropagate, forward, type Mode } from '../../gpu-worker/model/trajectory.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { modelSchema } from '../../shared/model.ts';
import { derivedSeed, gaussian, seededRandom } from '../../shared/random.ts';
import { PARAMETER_NAMES, type ParameterName } from '../../shared/parameter-names.ts';
import { MODELS } from './models.ts';

const reference = await loadEngine('reference');
const wasm = await loadEngine('wasm');

const B = 4;
const TRAINING: Mode = { kind: 'training', noise: (operation) => seededRandom(derivedSeed(9, operation)) };

/** Weights on the host: layer → parameter → values and shape. */
type HostWeights = Partial<Record<ParameterName, { values: Float64Array; shape: readonly number[] }>>[];

function toHost(engine: Engine, weights: Weights): HostWeights {
  return weights.map((parameters) => {
    const entries = PARAMETER_NAMES.flatMap((name) => {
      const tensor = parameters[name];
      return tensor === undefined
        ? []
        : [[name, { values: Float64Array.from(engine.read(tensor)), shape: tensor.shape }] as const];
    });
    return Object.fromEntries(entries);
  });
}

function upload(engine: Engine, weights: HostWeights): Weights {
  return weights.map((parameters) =>
    Object.fromEntries(
      Object.entries(parameters).map(([name, { values, shape }]) => [name, engine.tensor(values, shape)]),
    ),
  );
}

describe.each(Object.keys(MODELS))('%s', (name) => {
  const model = modelSchema.parse(MODELS[name]);
  const program = compile(model);
  const size = program.input.reduce((product, length) => product * length, 1);
  const random = seededRandom(5);
  const input = Float64Array.from({ length: B * size }, () => gaussian(random));
  const cotangent = Float64Array.from({ length: B * program.outputs }, () => gaussian(random));
  // Away from the initial zeros and ones, so that no gradient vanishes by symmetry.
  const weights = toHost(reference, initialWeights(reference, program, 3));
  for (const parameters of weights) {
    for (const { values } of Object.values(parameters)) {
      values.forEach((value, index) => (values[index] = value + 0.1 * gaussian(random)));
    }
  }

  function run(engine: Engine, at: HostWeights, mode: Mode = TRAINING) {
    const uploaded = upload(engine, at);
    const x = engine.tensor(input, [B, ...program.input]);
    return forward(engine, program, (t) => uploaded[t]!, x, mode);
  }

  /** Σ_ic w_ic output_ic. */
  const functional = (at: HostWeights): number =>
    reference.scope(() => {
      const output = Float64Array.from(reference.read(run(reference, at).output));
      return output.reduce((sum, value, index) => sum + value * cotangent[index]!, 0);
    });

  /** The functional's gradient in every parameter. */
  function gradients(engine: Engine): HostWeights {
    return engine.scope(() => {
      const trajectory = run(engine, weights);
      const rows = engine.tensor(cotangent, [B, program.outputs]);
      const { outputGradients } = backpropagate(trajectory, rows);
      const ones = engine.tensor(new Float32Array(B).fill(1), [B]);
      return toHost(
        engine,
        program.stages.map(({ layer }, t) => {
          const blocks = parameterBlocks(engine, layer, {
            input: trajectory.inputs[t]!,
            gradient: outputGradients[t]!,
          });
          return parameterChanges(engine, layer, blocks.map((block) => weightedSum(engine, block, ones))); // prettier-ignore
        }),
      );
    });
  }

  it('gradients are the finite differences', () => {
    const STEP = 1e-5;
    const computed = gradients(reference);
    for (const [t, parameters] of weights.entries()) {
      for (const [key, { values, shape }] of Object.entries(parameters)) {
        const gradient = computed[t]![key as ParameterName]!;
        expect(gradient.shape).toEqual(shape);
        for (let index = 0; index < values.length; index += Math.ceil(values.length / 15)) {
          const original = values[index]!;
          values[index] = original + STEP;
          const ahead = functional(weights);
          values[index] = original - STEP;
          const behind = functional(weights);
          values[index] = original;
          const slope = (ahead - behind) / (2 * STEP);
          expect(Math.abs(gradient.values[index]! - slope), `${key} ${index} of stage ${t}`).toBeLessThan(
            1e-7 * Math.max(1, Math.abs(slope)),
          );
        }
      }
    }
  });

  it('float32 agrees', () => {
    const exact = gradients(reference);
    const rounded = gradients(wasm);
    for (const [t, parameters] of exact.entries()) {
      for (const [key, { values }] of Object.entries(parameters)) {
        const scale = Math.max(1, ...values.map(Math.abs));
        rounded[t]![key as ParameterName]!.values.forEach((value, index) => {
          expect(Math.abs(value - values[index]!) / scale).toBeLessThan(1e-4);
        });
      }
    }
  });

  it('several columns at once are the columns one by one', () => {
    reference.scope(() => {
      const r = 3;
      const C = program.outputs;
      const trajectory = run(reference, weights);
      const rows = Float64Array.from({ length: B * r * C }, () => gaussian(random));
      const together = backpropagate(trajectory, reference.tensor(rows, [B * r, C]));
      for (let column = 0; column < r; column++) {
        const own = Float64Array.from(
          { length: B * C },
          (_, index) => rows[(Math.floor(index / C) * r + column) * C + (index % C)]!,
        );
        const alone = backpropagate(trajectory, reference.tensor(own, [B, C]));
        const pairs = [
          ...together.outputGradients.map((tensor, t) => [tensor, alone.outputGradients[t]!] as const),
          ...together.stateGradients.flatMap((state, t) =>
            state.map((tensor, entry) => [tensor, alone.stateGradients[t]![entry]!] as const),
          ),
        ];
        for (const [all, one] of pairs) {
          const expected = reference.read(one);
          const width = expected.length / B;
          const actual = reference.read(all);
          expected.forEach((value, index) => {
            const row = Math.floor(index / width) * r + column;
            expect(actual[row * width + (index % width)]!).toBeCloseTo(value, 11);
          });
        }
      }
    });
  });

  it('leaves nothing behind', () => {
    for (const engine of [reference, wasm]) {
      const before = engine.liveTensors;
      gradients(engine);
      expect(engine.liveTensors).toBe(before);
    }
  });
});
