/** Changes of one layer's parameters. */
import type { ParameterName } from '../../shared/parameter-names.ts';
import type { TensorValues } from '../../shared/safetensors.ts';

/** To be added to the parameters: by name, row-major, in the parameters' own shapes. */
export type ParameterChanges = Readonly<Partial<Record<ParameterName, TensorValues>>>;
