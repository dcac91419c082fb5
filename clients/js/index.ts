/** The JavaScript client of the DDPNOpt service. */
export { DdpnoptClient, type ClientOptions } from './client.ts';
export {
  HostedTrainingSession,
  type DownloadedTensor,
  type MiniBatchInput,
  type Prediction,
  type RunOptions,
  type RunProgress,
  type UploadOptions,
} from './hosted-session.ts';
export type { DataSet } from '../../shared/data-set.ts';
export type { Run } from '../../shared/run.ts';
export { samplesOf, stepsPerEpoch, type SampleOrder, type SamplePlan } from '../../shared/sample-order.ts';
export type { InitialWeights } from './initial-weights.ts';
export { TrainingSession, type LayerInput, type StepInput, type StepReply } from './layers-session.ts';
export type { Checkpoint } from '../../shared/checkpoint.ts';
export type { StepParts } from '../../shared/step-parts.ts';
export type { Estimate } from '../../shared/estimate.ts';
export type { EventOptions, TrainingEvent } from './events.ts';
export type { SessionChanges } from '../../shared/session-changes.ts';
export {
  KernelPolicy,
  KernelTrainingSession,
  type KernelChange,
  type KernelInput,
  type KernelStepInput,
  type KernelStepReply,
  type LayerInverses,
} from './kernel-session.ts';
export type { KernelBatchInput, SolvedKernels } from './kernel-solve.ts';
export type { RequestEvent, RequestOptions, StepOptions, TransportOptions } from './transport.ts';
export type { RetryPolicy, Timing } from './retry.ts';
export type { ReplayLimits } from './replay-buffer.ts';
export type { MetricsColumns, MetricsHistory, StepRecord } from './metrics-history.ts';
export { ConnectionError, DdpnoptError, ReplayError, RunError } from './errors.ts';
export type { PolicyCoefficients } from './coefficients.ts';
export type { ParameterChanges } from './parameter-changes.ts';
export type { BlockInverses, LayerMetric } from './layer-metric.ts';
export {
  LayerPolicy,
  type InverseFactors,
  type LayerSamples,
  type PolicyTensors,
  type SampleFactors,
} from './policy.ts';
export { terminalWeights } from '../../shared/terminal-weights.ts';
export { toLayersModel, type LayersModelFiles, type LayersModelJson } from './interchange/layers-model.ts';
export { toPyTorch } from './interchange/pytorch.ts';
export { InterchangeError, type TrainedWeights } from './interchange/weights.ts';
