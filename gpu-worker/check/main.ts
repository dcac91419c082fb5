/**
 * npm run check:gpu: what the native engine computes on, whether it computes well, and how fast.
 *
 * It prints device, driver and library versions; holds linear algebra, every layer with every metric, and hosted models against the
 * float64 reference; says what a step moves between host and device; and, on a GPU, times a step there and on the CPU.
 *
 * Ends with
 *   0  it computes on a GPU, and as it should
 *   1  it computes, but not as it should
 *   2  there is no native engine, or it does not load
 *   3  it computes as it should, on the CPU: no GPU was found, or none that TensorFlow can use
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import { createDeferredEngine } from '../tensor/deferred/engine.ts';
import type { Engine } from '../tensor/engine.ts';
import { loadEngine } from '../tensor/index.ts';
import { findBinding, hasFunctions, loadBinding, type TensorFlowBinding } from '../tensor/tensorflow/binding.ts';
import { createTensorFlowEngine } from '../tensor/tensorflow/operations.ts';
import { passes, type Comparison } from './comparison.ts';
import { nvidiaDriver, type NvidiaDriver } from './device.ts';
import { compareLinearAlgebra } from './linear-algebra.ts';
import { watched, type Traffic, type WatchedBinding } from './traffic.ts';
import { compareLayers, compareModels } from './training.ts';
import { CYCLE, startTraining, WORKLOADS, type Workload } from './workload.ts';

const EXIT = { onGpu: 0, wrong: 1, notThere: 2, onCpu: 3 } as const;

const TIMING = fileURLToPath(new URL('./timing.ts', import.meta.url));
const TENSORFLOW_CHECK = fileURLToPath(new URL('../tensor/tensorflow/check.ts', import.meta.url));
const timesSchema = z.record(z.string(), z.number());

function print(topic: string, text: string): void {
  process.stdout.write(`${topic.padEnd(16)}${text}\n`);
}

/** The binding; the process ends where there is none, or it does not load. */
function load(): { readonly file: string; readonly binding: TensorFlowBinding } {
  const file = findBinding();
  try {
    if (file === null) throw new Error('npm run native -- --gpu assembles it');
    return { file, binding: loadBinding(file) };
  } catch (error) {
    process.stderr.write(
      `There is no native engine to check: ${error instanceof Error ? error.message : String(error)}\n`,
    );
    process.exit(EXIT.notThere);
  }
}

function printLibraries(binding: TensorFlowBinding): void {
  const cuda = hasFunctions(binding) ? binding.cudaVersions() : null;
  const text =
    cuda === null
      ? 'without CUDA'
      : `CUDA ${cudaVersion(cuda.runtime)}, cuDNN ${cudnnVersion(cuda.cudnn)}, driver up to CUDA ${cudaVersion(cuda.driver)}`;
  print('Libraries', `TensorFlow ${binding.TF_Version}, ${text}`);
}

function cudaVersion(number: number): string {
  return number === 0 ? '(none)' : `${String(Math.floor(number / 1000))}.${String(Math.floor((number % 1000) / 10))}`;
}

function cudnnVersion(number: number): string {
  return `${String(Math.floor(number / 10_000))}.${String(Math.floor((number % 10_000) / 100))}.${String(number % 100)}`;
}

function printDriver(driver: NvidiaDriver | null): void {
  if (driver === null) {
    print('Driver', 'no NVIDIA driver on this machine');
    return;
  }
  print('Driver', `NVIDIA ${driver.version}`);
  for (const device of driver.devices) print('Device', device);
}

/** What TensorFlow writes to its log about the GPUs that it looks for. */
function tensorFlowOnGpus(file: string): string {
  const { stderr } = spawnSync(process.execPath, [TENSORFLOW_CHECK, file], {
    encoding: 'utf8',
    env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '0' },
  });
  return stderr.split('\n').filter((line) => /cuda|cuInit|gpu|nvidia/i.test(line)).join('\n'); // prettier-ignore
}

/** @returns whether all are within their tolerances */
function printComparisons(topic: string, comparisons: readonly Comparison[]): boolean {
  const failed = comparisons.filter((comparison) => !passes(comparison));
  const largest = Math.max(...comparisons.map(({ error }) => error));
  const summary = failed.length === 0 ? 'all as the float64 reference' : `${String(failed.length)} differ`;
  print(
    topic,
    `${String(comparisons.length)} compared, ${summary}; largest relative error ${largest.toExponential(1)}`,
  );
  for (const { name, error, tolerance } of failed) {
    print('', `${name}: ${error.toExponential(1)}, allowed ${tolerance.toExponential(0)}`);
  }
  return failed.length === 0;
}

/** @returns whether TensorFlow can compute all operations that have been executed on a GPU */
function printKernels(binding: TensorFlowBinding, operations: ReadonlySet<string>): boolean {
  if (!hasFunctions(binding) || binding.cudaVersions() === null) return true;
  const lacking = [...operations].filter((operation) => !binding.hasGpuKernel(operation));
  const summary = lacking.length === 0 ? 'each can be computed on a GPU' : `not on a GPU: ${lacking.join(', ')}`;
  print('Operations', `${String(operations.size)} of TensorFlow's; ${summary}`);
  return lacking.length === 0;
}

/** What a step moves when its graphs have been made. */
function trafficOfStep(engine: Engine, watch: WatchedBinding, workload: Workload): Traffic {
  const { trainer, body } = startTraining(engine, workload);
  for (let step = 0; step <= CYCLE; step++) trainer.step(body);
  watch.take();
  trainer.step(body);
  const traffic = watch.take();
  trainer.close();
  return traffic;
}

/** @returns whether what the step computes stays on the device */
function printTraffic({ name }: Workload, traffic: Traffic, isOnGpu: boolean): boolean {
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`;
  print(
    'A step moves',
    `${megabytes(traffic.uploaded)} to the device and ${megabytes(traffic.downloaded)} back (${name})`,
  );
  if (traffic.sessionRuns > 0) {
    print('', `and ${megabytes(traffic.sessionBytes)} into and out of graphs, which this binding runs as sessions`);
    if (isOnGpu) print('', 'npm run native assembles one whose graphs leave them on the GPU');
    return true;
  }
  const devices = [...traffic.results].map(([device, count]) => `${String(count)} results on ${device}`);
  print('', `graphs called: ${String(traffic.functionCalls)}; ${devices.join(', ')}`);
  return !isOnGpu || [...traffic.results.keys()].every((device) => device.startsWith('GPU'));
}

function times(environment: NodeJS.ProcessEnv): Record<string, number> {
  const { status, stdout, stderr } = spawnSync(process.execPath, [TIMING], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  });
  if (status !== 0) throw new Error(`the steps could not be timed: ${stderr}`);
  return timesSchema.parse(JSON.parse(stdout));
}

function printTimes(): void {
  const gpu = times({});
  const cpu = times({ CUDA_VISIBLE_DEVICES: '-1' });
  for (const [name, onGpu] of Object.entries(gpu)) {
    const onCpu = cpu[name] ?? Number.NaN;
    print('A step takes', `${onGpu.toFixed(2)} ms, on the CPU ${onCpu.toFixed(2)} ms: ${(onCpu / onGpu).toFixed(1)} times as long (${name})`); // prettier-ignore
  }
}

const { file, binding } = load();
const watch = watched(binding);
const { engine: eager, compile } = createTensorFlowEngine(watch.binding);
const engine = createDeferredEngine(eager, compile, (reason) => {
  process.stderr.write(`${reason}\n`);
});
const reference = await loadEngine('reference');
const isOnGpu = binding.isUsingGpuDevice();
const driver = nvidiaDriver();

printDriver(driver);
printLibraries(binding);
print('Computes on', isOnGpu ? 'the GPU' : 'the CPU');
if (!isOnGpu && driver !== null) process.stderr.write(`${tensorFlowOnGpus(file)}\n`);
const checks = [
  printComparisons('Linear algebra', compareLinearAlgebra(engine, reference)),
  printComparisons('Layer × metric', compareLayers(engine, reference)),
  printComparisons('Hosted models', compareModels(engine, reference)),
];
if (isOnGpu) checks.push(printKernels(binding, watch.operations));
const [smallest] = WORKLOADS;
if (smallest !== undefined) checks.push(printTraffic(smallest, trafficOfStep(engine, watch, smallest), isOnGpu));
if (isOnGpu) printTimes();

if (checks.includes(false)) {
  print('Result', 'it does not compute as it should');
  process.exitCode = EXIT.wrong;
} else if (isOnGpu) {
  print('Result', 'it computes on the GPU, as it should');
  process.exitCode = EXIT.onGpu;
} else {
  const reason =
    driver === null ? 'there is no GPU here' : 'TensorFlow found no GPU that it can use, for the reasons above';
  print('Result', `it computes on the CPU, as it should; ${reason}`);
  process.exitCode = EXIT.onCpu;
}
