/** Attributes of TensorFlow's operations that several of ours take. */
import { ATTRIBUTE_KINDS, DATA_TYPES, type Attribute, type DataType } from './binding.ts';

const { float32, float64, int32 } = DATA_TYPES;

export const text = (name: string, value: string): Attribute => ({ name, type: ATTRIBUTE_KINDS.text, value });
export const integerList = (name: string, value: readonly number[]): Attribute => ({
  name,
  type: ATTRIBUTE_KINDS.integer,
  value,
});
export const integer = (name: string, value: number): Attribute => ({ name, type: ATTRIBUTE_KINDS.integer, value });
export const boolean = (name: string, value: boolean): Attribute => ({ name, type: ATTRIBUTE_KINDS.boolean, value });
export const type = (name: string, value: DataType): Attribute => ({ name, type: ATTRIBUTE_KINDS.type, value });

export const FLOAT32 = [type('T', float32)];
export const LOGICAL_REDUCTION = [type('Tidx', int32), boolean('keep_dims', false)];
export const RESHAPE = { [float32]: [type('T', float32), type('Tshape', int32)], [float64]: [type('T', float64), type('Tshape', int32)] }; // prettier-ignore
export const SLICE = { [float32]: [type('T', float32), type('Index', int32)], [float64]: [type('T', float64), type('Index', int32)] }; // prettier-ignore
