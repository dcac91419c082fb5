/** The layers of a session. Every field's default, range and meaning stands here. */
import * as z from 'zod';
import { LIMITS } from './limits.ts';

const layerNameSchema = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/, 'a layer name has 1 to 128 letters, digits, "_", "." or "-"')
  .meta({ description: 'Unique within the session; tensors are named after it', example: 'fc1' });

const sizeSchema = z.int().min(1).max(LIMITS.features);

const denseLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    kind: z.literal('dense'),
    inputs: sizeSchema.meta({ description: 'Input features n', example: 64 }),
    outputs: sizeSchema.meta({ description: 'Output features c', example: 32 }),
    bias: z.boolean().default(true).meta({ description: 'Whether the layer adds a bias' }),
  })
  .meta({ id: 'DenseLayer', description: 'pre-activation = activation · weight + bias; weight [n, c], bias [c]' });

export const layerSchema = z
  .discriminatedUnion('kind', [denseLayerSchema])
  .meta({ id: 'Layer', description: 'A layer with parameters: one stage of the optimal-control problem' });

export type Layer = z.output<typeof layerSchema>;
export type DenseLayer = z.output<typeof denseLayerSchema>;
