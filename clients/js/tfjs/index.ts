/** TensorFlow.js: trains a layers model through the service. Imports nothing of TensorFlow.js but types. */
export {
  trainWith,
  type HostedModeOptions,
  type KernelModeOptions,
  type LayersModeOptions,
  type SessionOptions,
} from './train-with.ts';
export { UnsupportedLayerError, type TfjsLoss } from './read-model.ts';
export {
  Trainer,
  type EpochLogs,
  type Evaluation,
  type FitHistory,
  type FitOptions,
  type StepLogs,
} from './trainer.ts';
export { LayersTrainer } from './layers-trainer.ts';
export { HostedTrainer } from './hosted-trainer.ts';
export type { TensorFlow } from './tensorflow.ts';
export { KernelTrainer } from './kernel-trainer.ts';
