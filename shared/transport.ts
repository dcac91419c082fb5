/** Element types that spare traffic: what a session takes and gives beside float32. */
import * as z from 'zod';

const int8 = z
  .boolean()
  .default(false)
  .meta({
    description:
      'Whether steps may carry I8 tensors, value = scale · integer, with the scale in `__metadata__` as `<tensor>.scale`. Floating-point ' +
      'types, F64, F32, F16 and BF16, are taken without asking',
  });

const reply = z
  .enum(['full', 'f16', 'bf16', 'int8'])
  .default('full')
  .meta({
    description:
      'Element type of what a reply has most of: updates, sample factors, predictions. What is solved or multiplied with, Cholesky factors, ' +
      'targets and inverses, stays in full. A tensor with numbers beyond the type’s stays in full, too',
  });

/** Where the reply has tensors that may be narrowed. */
export const transportSchema = z
  .strictObject({ reply, int8 })
  .prefault({})
  .meta({ id: 'Transport', description: 'Element types on the wire' });

/** Where it has none. */
export const requestTransportSchema = z
  .strictObject(
    { int8 },
    {
      error: ({ code }) =>
        code === 'unrecognized_keys'
          ? 'mode "kernel" has no such field: what its replies carry is solved with, and stays in full'
          : undefined,
    },
  )
  .prefault({})
  .meta({ id: 'RequestTransport', description: 'Element types on the wire' });

export type ReplyPrecision = z.output<typeof reply>;
