/** Loads a tensor engine by name. */
import type { Engine, EngineName } from './engine.ts';

export async function loadEngine(name: EngineName): Promise<Engine> {
  switch (name) {
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
