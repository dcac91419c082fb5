/** A safetensors body, for the OpenAPI document. */
import * as z from 'zod';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';

export const safetensorsBody = {
  [SAFETENSORS_CONTENT_TYPE]: { schema: z.string().meta({ format: 'binary', description: 'A safetensors file' }) },
};
