/** How long a session is kept: the same in every mode. */
import * as z from 'zod';
import { LIMITS } from './limits.ts';

export const ttlSecondsSchema = z
  .int()
  .min(LIMITS.ttlSeconds.minimum)
  .max(LIMITS.ttlSeconds.maximum)
  .default(LIMITS.ttlSeconds.default)
  .meta({ description: 'Seconds without a request after which the session is removed' });
