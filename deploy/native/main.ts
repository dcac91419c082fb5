/**
 * npm run native: assembles the native TensorFlow engine for this project, in a folder that git ignores.
 *
 * npm run native            for the GPU if this machine has an NVIDIA driver, else for the CPU
 * npm run native -- --gpu   with CUDA in any case; without a GPU it computes on the CPU
 * npm run native -- --cpu   without CUDA in any case
 *
 * TensorFlow's libraries come from its Python wheel, CUDA's from NVIDIA's, the N-API binding from the sources of tfjs-node, which a
 * C++ compiler here builds against them: the binding that npm would install brings a TensorFlow eleven versions older, and for
 * GPUs CUDA 11.2, from a host of its own that not every network reaches. All downloads are pinned by digest. Until the engine has
 * been tried, and whenever that fails, the worker uses the one it has.
 */
import { parseArgs } from 'node:util';
import { NATIVE_ENGINE_FOLDER, TENSORFLOW_VERSION } from '../../shared/native-engine.ts';
import { assemble, FINISHED } from './assemble.ts';
import { AssemblyError } from './commands.ts';
import { hasNvidiaDriver } from './driver.ts';
import { finishedVariant } from './manifest.ts';
import type { Variant } from './packages.ts';

const TITLES: Readonly<Record<Variant, string>> = {
  cpu: `TensorFlow ${TENSORFLOW_VERSION} for the CPU`,
  gpu: `TensorFlow ${TENSORFLOW_VERSION} with CUDA`,
};

/** @throws AssemblyError if the arguments are others than those above */
function forcedVariant(): Variant | null {
  const { cpu = false, gpu = false } = parseOptions();
  if (cpu && gpu) throw new AssemblyError('--cpu and --gpu exclude each other', 'Give one of them, or none.');
  if (gpu) return 'gpu';
  return cpu ? 'cpu' : null;
}

function parseOptions(): { cpu?: boolean; gpu?: boolean } {
  try {
    return parseArgs({ options: { cpu: { type: 'boolean' }, gpu: { type: 'boolean' } } }).values;
  } catch (cause) {
    throw new AssemblyError(cause instanceof Error ? cause.message : String(cause), 'Give --cpu, --gpu or nothing.');
  }
}

const present = await finishedVariant(FINISHED);
try {
  const forced = forcedVariant();
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new AssemblyError(
      `this assembles TensorFlow for Linux on x64, and this is ${process.platform} on ${process.arch}`,
      'Where npm can install @tensorflow/tfjs-node or @tensorflow/tfjs-node-gpu, the worker uses that.',
    );
  }
  // With CUDA it computes on the CPU, too: that is no reason to replace it.
  const wanted = forced ?? (present === 'gpu' || hasNvidiaDriver() ? 'gpu' : 'cpu');
  if (present === wanted) {
    process.stdout.write(`The native engine, ${TITLES[wanted]}, is in ${NATIVE_ENGINE_FOLDER} already.\n`);
  } else {
    process.stdout.write(`Assembling the native engine, ${TITLES[wanted]}, in ${NATIVE_ENGINE_FOLDER}:\n`);
    process.stdout.write(`${await assemble(wanted)}\n`);
    process.stdout.write('The worker uses it from its next start on; DDPNOPT_ENGINE=wasm does without.\n');
    if (wanted === 'gpu')
      process.stdout.write('npm run check:gpu says what it computes on, and whether it computes well.\n');
  }
} catch (error) {
  const remedy =
    error instanceof AssemblyError ? error.remedy : 'Remove the folder .native and run npm run native again.';
  const reason = error instanceof Error ? error.message : String(error);
  const meanwhile =
    present === null
      ? 'Until then the worker uses the engine it has.'
      : `Until then ${TITLES[present]} stays in its place.`;
  process.stderr.write(`\nThe native engine was not assembled: ${reason}\n${remedy}\n${meanwhile}\n`);
  process.exitCode = 1;
}
