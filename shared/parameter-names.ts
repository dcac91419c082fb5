/** Names of a layer's parameters. */
export const PARAMETER_NAMES = ['weight', 'bias', 'scale', 'shift', 'parameters'] as const;
export type ParameterName = (typeof PARAMETER_NAMES)[number];
