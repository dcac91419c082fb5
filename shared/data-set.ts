/**
 * A hosted session’s data set: sent once, in chunks, and drawn from by runs. Samples are numbered from 0 through the chunks in the order
 * of their numbers.
 */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { checkTensors } from './expected-tensor.ts';
import { HOSTED_TENSOR, hostedStepTensors } from './hosted-tensors.ts';
import type { HostedDefinition } from './hosted-definition.ts';
import { LIMITS } from './limits.ts';
import type { SafetensorsHeader } from './safetensors.ts';

const dataChunkSchema = z.object({
  chunk: z.int().meta({ description: 'k' }),
  samples: z.int().meta({ description: 'Its samples' }),
  firstSample: z.int().meta({ description: 'Number of the first of them, if no chunk before it is missing' }),
  bytes: z.int().meta({ description: 'Size of its body' }),
  digest: z.string().meta({
    description:
      'SHA-256 of its body as a safetensors file, in hexadecimal: what tells whether a chunk is here already. Of one sent as JSON it is that of the file made of it',
  }),
});

export const dataSetSchema = z
  .object({
    samples: z.int().meta({ description: 'Of all chunks together' }),
    bytes: z.int().meta({ description: 'Size of their bodies together' }),
    chunks: z.array(dataChunkSchema).meta({ description: 'In the order of their numbers' }),
    missingChunks: z.array(z.int()).meta({
      description: 'Numbers below the last one’s that no chunk has, the first 100; a run needs all',
    }),
  })
  .meta({ id: 'DataSet' });

export type DataSet = z.output<typeof dataSetSchema>;
export type DataChunk = z.output<typeof dataChunkSchema>;

/** @param chunks in order */
export function describeDataSet(chunks: readonly Omit<DataChunk, 'firstSample'>[]): DataSet {
  let samples = 0;
  const described = chunks.map(({ chunk, samples: count, bytes, digest }) => {
    const firstSample = samples;
    samples += count;
    return { chunk, samples: count, firstSample, bytes, digest };
  });
  const bytes = chunks.reduce((sum, chunk) => sum + chunk.bytes, 0);
  return { samples, bytes, chunks: described, missingChunks: missingChunks(chunks) };
}

function missingChunks(chunks: readonly Pick<DataChunk, 'chunk'>[]): number[] {
  const present = new Set(chunks.map(({ chunk }) => chunk));
  const end = Math.max(-1, ...present);
  return Array.from({ length: end + 1 }, (_, k) => k)
    .filter((k) => !present.has(k))
    .slice(0, 100);
}

/** @throws ProblemError `invalid_parameter` */
export function parseChunkNumber(text: string): number {
  const k = /^(0|[1-9][0-9]{0,8})$/.test(text) ? Number(text) : Number.NaN;
  if (k < LIMITS.dataChunks) return k;
  throw new ProblemError('invalid_parameter', {
    param: 'k',
    detail: `The chunk number ${JSON.stringify(text)} is not a whole number from 0 to ${String(LIMITS.dataChunks - 1)}.`,
    remedy: 'Number the chunks of a data set 0, 1, 2, …',
  });
}

/**
 * Checks the header of a chunk, which has the tensors of a step and as many samples as fit into a body.
 *
 * @returns its samples
 * @throws ProblemError as `checkTensors`
 */
export function checkChunkHeader(
  header: SafetensorsHeader,
  definition: Pick<HostedDefinition, 'model' | 'loss' | 'transport'>,
): number {
  const { int8 } = definition.transport;
  const expected = hostedStepTensors(definition);
  return checkTensors(header, expected, 'a chunk of this session’s data set', int8, LIMITS.dataSamples).batch;
}

/** Checks whether a data set keeps to the limits. @throws ProblemError `data_too_large` */
export function checkDataSetSize({ samples, bytes }: Pick<DataSet, 'samples' | 'bytes'>): void {
  if (samples <= LIMITS.dataSamples && bytes <= LIMITS.dataSetBytes) return;
  throw new ProblemError('data_too_large', {
    param: HOSTED_TENSOR.samples,
    detail: `The data set would have ${String(samples)} samples in ${String(bytes)} bytes; the most are ${String(LIMITS.dataSamples)} and ${String(LIMITS.dataSetBytes)}.`,
    remedy: 'Send narrower numbers, F16 or BF16, or fewer samples; DELETE the data set to send another one.',
  });
}
