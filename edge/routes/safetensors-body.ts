/** Bodies of tensors, for the OpenAPI document. */
import * as z from 'zod';
import { JSON_CONTENT_TYPE } from '../../shared/json-tensors.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';

export const safetensorsBody = {
  [SAFETENSORS_CONTENT_TYPE]: { schema: z.string().meta({ format: 'binary', description: 'A safetensors file' }) },
};

/** Anything: what is wrong with a document of tensors is said by name where it is read. */
const tensorsSchema = z.unknown().meta({
  id: 'Tensors',
  type: 'object',
  description: 'Tensors by name, each a number or nested lists of numbers',
});

/** A body of tensors that may be JSON if it is small: sent as such, or asked for with Accept. */
export const tensorsBody = { ...safetensorsBody, [JSON_CONTENT_TYPE]: { schema: tensorsSchema } };
