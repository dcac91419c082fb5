import type { ParameterName } from '../../../shared/parameter-names.ts';
import type { Tensor } from '../../tensor/engine.ts';

/** A layer's parameters by name, in their own shapes. */
export type LayerParameters = Readonly<Partial<Record<ParameterName, Tensor>>>;

/** Changes of a layer's parameters by name, in the parameters' own shapes. */
export type ParameterChanges = LayerParameters;
