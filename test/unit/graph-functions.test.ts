/** Graphs as functions of the binding that npm run native builds: nothing but the batch crosses to the device and back. */
import { describe, expect, it } from 'vitest';
import { startTraining, WORKLOADS } from '../../gpu-worker/check/workload.ts';
import { passes } from '../../gpu-worker/check/comparison.ts';
import { compareLinearAlgebra } from '../../gpu-worker/check/linear-algebra.ts';
import { compareLayers, compareModels } from '../../gpu-worker/check/training.ts';
import { watched } from '../../gpu-worker/check/traffic.ts';
import { createDeferredEngine } from '../../gpu-worker/tensor/deferred/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import type { Engine, Tensor } from '../../gpu-worker/tensor/engine.ts';
import {
  findBinding,
  hasFunctions,
  loadBinding,
  type StockBinding,
} from '../../gpu-worker/tensor/tensorflow/binding.ts';
import { graphDefinition } from '../../gpu-worker/tensor/tensorflow/graph-definition.ts';
import { createTensorFlowEngine } from '../../gpu-worker/tensor/tensorflow/operations.ts';
import { stock } from './stock-binding.ts';

const file = findBinding();
const binding = file === null ? null : loadBinding(file);
/** Null too for a binding that npm installed, or that an earlier npm run native built. */
const withFunctions = binding !== null && hasFunctions(binding) ? binding : null;

function deferred(on: StockBinding): Engine {
  const { engine, compile } = createTensorFlowEngine(on);
  return createDeferredEngine(engine, compile, (reason) => {
    throw new Error(reason);
  });
}

/** The graph of an input alone. */
const IDENTITY = graphDefinition([{ kind: 'input', type: 1, shape: [2] }], []);

describe.skipIf(withFunctions === null)('graphs as functions', () => {
  const full = withFunctions!;

  it('compute what sessions compute', () => {
    const compute = (engine: Engine): Float32Array | Float64Array =>
      engine.scope(() => {
        const root = engine.tensor(Float32Array.from({ length: 400 }, (_, i) => Math.sin(i * i)), [20, 20]); // prettier-ignore
        const P = engine.add(engine.matMul(root, root, { transposeRight: true }), engine.identity(20));
        const L: Tensor = engine.inverseCholesky(P);
        return engine.read(engine.matMul(L, engine.sqrt(engine.square(root))));
      });
    const functions = watched(full);
    const sessions = watched(stock(full));
    const [actual, expected] = [functions, sessions].map((watch) => compute(deferred(watch.binding)));
    for (const [index, value] of expected!.entries()) expect(actual![index]).toBeCloseTo(value, 4);
    expect(functions.take()).toMatchObject({ functionCalls: 1, sessionRuns: 0 });
    expect(sessions.take()).toMatchObject({ functionCalls: 0, sessionRuns: 1 });
  });

  it('a step uploads its batch and reads its metrics; weights and curvature stay where they are', () => {
    const watch = watched(full);
    const [workload] = WORKLOADS;
    const { trainer, body } = startTraining(deferred(watch.binding), workload!);
    for (let step = 0; step < 11; step++) trainer.step(body);
    watch.take();
    trainer.step(body);
    const { uploaded, downloaded, functionCalls, sessionRuns, results } = watch.take();
    const batch = 4 * workload!.batch * (workload!.widths[0]! + 1);
    // What else is uploaded are some numbers of a step.
    expect(uploaded).toBeGreaterThanOrEqual(batch);
    expect(uploaded).toBeLessThan(batch + 10_000);
    expect(downloaded).toBeLessThan(10_000);
    expect([functionCalls > 0, sessionRuns]).toEqual([true, 0]);
    expect([...results.keys()]).toEqual([full.isUsingGpuDevice() ? 'GPU:0' : 'CPU:0']);
    trainer.close();
  });

  // Where tensors lie on a GPU nothing of OpenBLAS is used; what is used then must compute as well, and be there for GPUs.
  it('compute as the reference with what TensorFlow itself has, all of it with kernels for GPUs', async () => {
    const watch = watched(full);
    const engine = deferred({ ...watch.binding, isUsingGpuDevice: () => true });
    const reference = await loadEngine('reference');
    const compared = [compareLinearAlgebra, compareLayers, compareModels].flatMap((compare) =>
      compare(engine, reference),
    );
    expect(compared.filter((comparison) => !passes(comparison))).toEqual([]);
    expect([...watch.operations]).toEqual(expect.arrayContaining(['Cholesky', 'MatrixTriangularSolve', 'Conv2D']));
    expect([...watch.operations].filter((name) => name.startsWith('Ddpnopt'))).toEqual([]);
    if (full.cudaVersions() === null) return;
    expect([...watch.operations].filter((operation) => !full.hasGpuKernel(operation))).toEqual([]);
    expect(full.hasGpuKernel('DdpnoptCholesky')).toBe(false);
  });

  it('go when they are deleted', () => {
    const name = full.createFunction(IDENTITY.graph, IDENTITY.inputs.join(), IDENTITY.inputs.join());
    const x = full.createTensor([2], 1, Float32Array.of(1, 2));
    const [same] = full.executeOp(name, [], [x], 1);
    expect([...full.tensorDataSync(same!.id)]).toEqual([1, 2]);
    full.deleteFunction(name);
    expect(() => full.executeOp(name, [], [x], 1)).toThrow(name);
    expect(() => {
      full.deleteFunction(name);
    }).toThrow(name);
  });

  it.each([
    ['bytes that are no graph', [Uint8Array.of(1, 2, 3), '', ''], /graph is refused/],
    ['results that the graph has not', [IDENTITY.graph, 'n0:0', 'n7:0'], /no n7:0/],
    ['a name without an index', [IDENTITY.graph, 'n0', 'n0:0'], /no n0/],
    ['no graph at all', ['graph', '', ''], /Uint8Array/],
    ['too little', [IDENTITY.graph], /number of arguments/],
  ] as const)('refuse %s', (_, given, message) => {
    expect(() => Reflect.apply(full.createFunction, undefined, given) as unknown).toThrow(message);
  });

  it('say where a tensor lies, and refuse one that is not there', () => {
    const x = full.createTensor([1], 1, Float32Array.of(1));
    expect(full.deviceOf(x)).toMatch(/device:(CPU|GPU):0$/);
    full.deleteTensor(x);
    expect(() => full.deviceOf(x)).toThrow(/no tensor/);
  });

  it('say which CUDA they were built with, if any', () => {
    const versions = full.cudaVersions();
    if (versions === null) expect(full.isUsingGpuDevice()).toBe(false);
    else expect(versions).toMatchObject({ runtime: 12_090, cudnn: 92_800 });
  });
});
