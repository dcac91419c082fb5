/** The JavaScript client of the DDPNOpt service. */
export {
  DdpnoptClient,
  TrainingSession,
  type ClientOptions,
  type RequestOptions,
  type StepInput,
  type StepReply,
} from './client.ts';
export { ConnectionError, DdpnoptError } from './errors.ts';
export { LayerPolicy, type ParameterChange, type PolicyTensors } from './policy.ts';
