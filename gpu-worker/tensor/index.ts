/** Which tensor engines this machine has, and loading them. */
import { ENGINE_NAMES, type Engine, type EngineName } from './engine.ts';
import { findBinding, loadBinding, type TensorFlowBinding } from './tensorflow/binding.ts';

/** The engines that are there, best first. Whether TensorFlow's libraries fit the machine shows when it is loaded. */
export function presentEngines(): EngineName[] {
  return ENGINE_NAMES.filter((name) => name !== 'tensorflow' || findBinding() !== null);
}

/**
 * Loads an engine.
 *
 * @param report hears what the engine cannot do as fast as it should, and why
 * @throws Error in words for the user if it is not there or does not load
 */
export async function loadEngine(name: EngineName, report: (reason: string) => void = warn): Promise<Engine> {
  switch (name) {
    case 'tensorflow': {
      const file = findBinding();
      if (file === null) {
        throw new Error('the tensorflow engine is not there; npm run native builds it, and wasm is always there');
      }
      const { createTensorFlowEngine } = await import('./tensorflow/operations.ts');
      const { createDeferredEngine } = await import('./deferred/engine.ts');
      const { engine, compile } = createTensorFlowEngine(loadTensorFlow(file));
      return createDeferredEngine(engine, compile, report);
    }
    case 'wasm': {
      const tf = await import('@tensorflow/tfjs-core');
      await import('@tensorflow/tfjs-backend-wasm');
      const { createTfjsEngine } = await import('./tfjs.ts');
      await tf.setBackend('wasm');
      await tf.ready();
      return createTfjsEngine('wasm');
    }
    case 'reference': {
      const { createReferenceEngine } = await import('./reference.ts');
      return createReferenceEngine();
    }
    default:
      throw new Error(`there is no tensor engine "${String(name)}"`);
  }
}

function loadTensorFlow(file: string): TensorFlowBinding {
  try {
    return loadBinding(file);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`the tensorflow engine does not load: ${reason}`, { cause });
  }
}

function warn(reason: string): void {
  process.emitWarning(reason);
}

/**
 * Loads TensorFlow if it is there and fits the machine, else wasm.
 *
 * @param report hears why TensorFlow is there and cannot be used, and what {@link loadEngine} reports
 */
export async function loadBestEngine(report: (reason: string) => void): Promise<Engine> {
  if (presentEngines().includes('tensorflow')) {
    try {
      return await loadEngine('tensorflow', report);
    } catch (error) {
      report(error instanceof Error ? error.message : String(error));
    }
  }
  return loadEngine('wasm');
}
