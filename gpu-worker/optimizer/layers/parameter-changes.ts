import type { ParameterName } from '../../../shared/parameter-names.ts';
import type { Tensor } from '../../tensor/engine.ts';

/** Changes of a layer's parameters by name, in the parameters' own shapes. */
export type ParameterChanges = Readonly<Partial<Record<ParameterName, Tensor>>>;
