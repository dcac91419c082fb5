/** Bodies of tensors, for the OpenAPI document. */
import * as z from 'zod';
import { JSON_CONTENT_TYPE } from '../../shared/json-tensors.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { Example } from './examples.ts';

export const safetensorsBody = {
  [SAFETENSORS_CONTENT_TYPE]: { schema: z.string().meta({ format: 'binary', description: 'A safetensors file' }) },
};

/** What is wrong with a tensor is said by name where it is read. */
export const tensorsSchema = z
  .record(z.string(), z.unknown(), { error: 'an object of tensors by name was expected, as {"losses": [0.5, 0.2]}' })
  .meta({ id: 'Tensors', description: 'Tensors by name, each a number or nested lists of numbers' });

/** A body of tensors that may be JSON if it is small: sent as such, or asked for with Accept. */
export const tensorsBody = { ...safetensorsBody, [JSON_CONTENT_TYPE]: { schema: tensorsSchema } };

/** The same, with some that are taken. */
export function tensorsBodyLike<Examples extends Record<string, Example<object>>>(
  examples: Examples,
): typeof safetensorsBody & Record<typeof JSON_CONTENT_TYPE, { schema: typeof tensorsSchema; examples: Examples }> {
  return { ...safetensorsBody, [JSON_CONTENT_TYPE]: { schema: tensorsSchema, examples } };
}
