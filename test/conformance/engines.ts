/** The engines that the dense oracle judges. */
import type { Engine, EngineName } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { findBinding, loadBinding } from '../../gpu-worker/tensor/tensorflow/binding.ts';
import { createTensorFlowEngine } from '../../gpu-worker/tensor/tensorflow/operations.ts';

/**
 * TensorFlow without graphs, since every case here is a structure of its own, and a graph takes longer to make than thousands of
 * operations to compute; that graphs compute the same is shown in compiled.test.ts and in test/unit/graph-compiler.test.ts.
 */
export async function oracleJudgedEngine(name: EngineName): Promise<Engine> {
  const file = name === 'tensorflow' ? findBinding() : null;
  return file === null ? loadEngine(name) : createTensorFlowEngine(loadBinding(file)).engine;
}
