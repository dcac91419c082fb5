/** The JavaScript client of the DDPNOpt service. */
export {
  DdpnoptClient,
  TrainingSession,
  type ClientOptions,
  type RequestOptions,
  type LayerInput,
  type StepInput,
  type StepReply,
} from './client.ts';
export { ConnectionError, DdpnoptError } from './errors.ts';
export { LayerPolicy, type ParameterChanges, type PolicyCoefficients, type PolicyTensors } from './policy.ts';
