/** The JavaScript client of the DDPNOpt service. */
export { DdpnoptClient, type ClientOptions } from './client.ts';
export {
  HostedTrainingSession,
  type DownloadedTensor,
  type MiniBatchInput,
  type Prediction,
} from './hosted-session.ts';
export { TrainingSession, type LayerInput, type StepInput, type StepReply } from './layers-session.ts';
export type { Checkpoint } from '../../shared/checkpoint.ts';
export type { RequestOptions } from './transport.ts';
export { ConnectionError, DdpnoptError } from './errors.ts';
export { LayerPolicy, type ParameterChanges, type PolicyCoefficients, type PolicyTensors } from './policy.ts';
