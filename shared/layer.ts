/** The layers of a session. Every field's default, range and meaning stands here. */
import * as z from 'zod';
import { convolutionGeometry } from './convolution.ts';
import { LIMITS } from './limits.ts';

export const layerNameSchema = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/, 'a layer name has 1 to 128 letters, digits, "_", "." or "-"')
  .meta({ description: 'Unique within the session; tensors are named after it', example: 'fc1' });

export const sizeSchema = z.int().min(1).max(LIMITS.features);

const sequenceSchema = z.boolean().default(false).meta({
  description: 'Whether activations have an axis of positions, [B, S, …], over which the parameters are shared',
});

const denseLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    kind: z.literal('dense'),
    inputs: sizeSchema.meta({ description: 'Input features n', example: 64 }),
    outputs: sizeSchema.meta({ description: 'Output features c', example: 32 }),
    bias: z.boolean().default(true).meta({ description: 'Whether the layer adds a bias' }),
    sequence: sequenceSchema,
  })
  .meta({ id: 'DenseLayer', description: 'pre-activation = activation · weight + bias; weight [n, c], bias [c]' });

export const extentSchema = z.int().min(1).max(1024);
const paddingExtentSchema = z.int().min(0).max(1024);

export const paddingSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('valid') }).meta({ id: 'ValidPadding', description: 'No padding' }),
    z
      .strictObject({ kind: z.literal('same') })
      .meta({ id: 'SamePadding', description: 'As much as keeps the size at stride 1; an odd zero behind' }),
    z
      .strictObject({
        kind: z.literal('explicit'),
        rows: z.tuple([paddingExtentSchema, paddingExtentSchema]).meta({ description: 'Zeros above and below' }),
        columns: z.tuple([paddingExtentSchema, paddingExtentSchema]).meta({ description: 'Zeros left and right' }),
      })
      .meta({ id: 'ExplicitPadding' }),
  ])
  .meta({ id: 'Padding' });

/** What a convolution has beside its input's shape. */
export const convolutionFields = {
  kernel: z
    .tuple([extentSchema, extentSchema])
    .meta({ description: 'Rows and columns of the kernel', example: [3, 3] }),
  strides: z.tuple([extentSchema, extentSchema]).default([1, 1]),
  dilations: z.tuple([extentSchema, extentSchema]).default([1, 1]),
  padding: paddingSchema.default({ kind: 'valid' }),
  groups: sizeSchema.default(1).meta({ description: 'Divides input and output channels' }),
  bias: z.boolean().default(true).meta({ description: 'Whether the layer adds a bias' }),
};

const conv2dLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    kind: z.literal('conv2d'),
    height: sizeSchema.meta({ description: 'Rows of the input', example: 28 }),
    width: sizeSchema.meta({ description: 'Columns of the input', example: 28 }),
    inputs: sizeSchema.meta({ description: 'Input channels C', example: 1 }),
    outputs: sizeSchema.meta({ description: 'Output channels c', example: 32 }),
    ...convolutionFields,
  })
  .superRefine((layer, context) => {
    for (const side of ['inputs', 'outputs'] as const) {
      if (layer[side] % layer.groups === 0) continue;
      const message = `${String(layer.groups)} groups do not divide ${String(layer[side])} ${side}`;
      context.addIssue({ code: 'custom', path: ['groups'], message, input: layer.groups });
    }
    const { rows, columns } = convolutionGeometry(layer);
    if (rows.outputs < 1 || columns.outputs < 1) {
      const message = `the kernel does not fit into the padded input of ${String(layer.height)} × ${String(layer.width)}`;
      context.addIssue({ code: 'custom', path: ['kernel'], message, input: layer.kernel });
    }
  })
  .meta({
    id: 'Conv2dLayer',
    description: 'Activations [height, width, channels]; weight [kernel rows, kernel columns, C/groups, c], bias [c]',
  });

const scaleShiftLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    kind: z.literal('scale-shift'),
    features: sizeSchema,
    shift: z.boolean().default(true).meta({ description: 'Whether the layer adds a shift' }),
    sequence: sequenceSchema,
  })
  .meta({
    id: 'ScaleShiftLayer',
    description:
      'pre-activation = scale ∘ activation + shift, as behind a normalisation; scale [features], shift [features]',
  });

const embeddingLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    kind: z.literal('embedding'),
    inputs: sizeSchema.meta({ description: 'Size of the vocabulary' }),
    outputs: sizeSchema.meta({ description: 'Features of an embedding' }),
  })
  .meta({
    id: 'EmbeddingLayer',
    description: 'Activations are token numbers [B, S], whole numbers from 0; weight [inputs, outputs]',
  });

const genericLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    kind: z.literal('generic'),
    parameters: z.int().min(1).max(LIMITS.genericParameters),
  })
  .meta({
    id: 'GenericLayer',
    description: 'Any other layer: send per-sample gradients in its parameters, [B, parameters]',
  });

export const layerSchema = z
  .discriminatedUnion('kind', [
    denseLayerSchema,
    conv2dLayerSchema,
    scaleShiftLayerSchema,
    embeddingLayerSchema,
    genericLayerSchema,
  ])
  .meta({ id: 'Layer', description: 'A layer with parameters: one stage of the optimal-control problem' });

export type Layer = z.output<typeof layerSchema>;
export type DenseLayer = z.output<typeof denseLayerSchema>;
export type Conv2dLayer = z.output<typeof conv2dLayerSchema>;

/** Refuses layers of one name, since tensors are named after their layer. */
export function refuseRepeatedNames(layers: readonly { readonly name: string }[], context: z.RefinementCtx): void {
  const names = new Map<string, number>();
  for (const [index, { name }] of layers.entries()) {
    const first = names.get(name);
    if (first !== undefined) {
      context.addIssue({
        code: 'custom',
        path: ['layers', index, 'name'],
        message: `layers ${String(first)} and ${String(index)} have the same name; give every layer a name of its own`,
        input: name,
      });
    }
    names.set(name, index);
  }
}
