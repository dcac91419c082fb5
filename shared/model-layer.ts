/** The layers of a hosted model, as a client declares them. Shapes are not written down: they follow from the model's input. */
import * as z from 'zod';
import { convolutionFields, extentSchema, layerNameSchema, paddingSchema, sizeSchema } from './layer.ts';

const finite = z.number().meta({ description: 'A finite number' });

const initializationSchema = z
  .enum(['he-normal', 'glorot-uniform', 'fan-in-uniform'])
  .default('he-normal')
  .meta({
    description:
      'How weights begin. he-normal: variance 2/n for n inputs per output (He et al., 2015), for rectifiers. glorot-uniform: ' +
      'variance 2/(n + c) for c outputs per input (Glorot & Bengio, 2010), for tanh and sigmoid. Biases begin with 0 in both. ' +
      'fan-in-uniform: weights and biases uniform in ±1/√n, as PyTorch’s Linear and Conv2d begin',
  });

const denseSchema = z
  .strictObject({
    kind: z.literal('dense'),
    name: layerNameSchema,
    outputs: sizeSchema.meta({ description: 'Output features', example: 32 }),
    bias: z.boolean().default(true),
    initialization: initializationSchema,
  })
  .meta({ id: 'ModelDense', description: 'Input [n], or [S, n] with the parameters shared over the positions S' });

const conv2dSchema = z
  .strictObject({
    kind: z.literal('conv2d'),
    name: layerNameSchema,
    outputs: sizeSchema.meta({ description: 'Output channels', example: 32 }),
    ...convolutionFields,
    initialization: initializationSchema,
  })
  .meta({ id: 'ModelConv2d', description: 'Input [height, width, channels]' });

const poolingFields = {
  window: z.tuple([extentSchema, extentSchema]).meta({ description: 'Rows and columns', example: [2, 2] }),
  strides: z
    .tuple([extentSchema, extentSchema])
    .nullable()
    .default(null)
    .meta({ description: 'null: as large as the window' }),
  padding: paddingSchema
    .default({ kind: 'valid' })
    .meta({ description: 'Padding counts neither as a maximum nor in an average' }),
};

const maxPoolingSchema = z
  .strictObject({ kind: z.literal('max-pooling'), ...poolingFields })
  .meta({ id: 'ModelMaxPooling' });

const averagePoolingSchema = z
  .strictObject({ kind: z.literal('average-pooling'), ...poolingFields })
  .meta({ id: 'ModelAveragePooling' });

const flattenSchema = z
  .strictObject({ kind: z.literal('flatten') })
  .meta({ id: 'ModelFlatten', description: 'All features of a sample in one axis' });

export const ACTIVATIONS = ['relu', 'tanh', 'sigmoid', 'gelu', 'softplus'] as const;

const activationSchema = z
  .strictObject({ kind: z.enum(ACTIVATIONS) })
  .meta({ id: 'ModelActivation', description: 'Feature by feature. gelu is x Φ(x), Φ the normal distribution' });

const normFields = {
  name: layerNameSchema,
  epsilon: finite.gt(0).max(1).default(1e-5).meta({ description: 'Added to the variance' }),
  affine: z.boolean().default(true).meta({ description: 'Whether a trained scale and shift per channel follow' }),
};

const layerNormSchema = z
  .strictObject({ kind: z.literal('layer-norm'), ...normFields })
  .meta({ id: 'ModelLayerNorm', description: 'Mean 0 and variance 1 over the last axis of each sample and position' });

const batchNormSchema = z
  .strictObject({
    kind: z.literal('batch-norm'),
    ...normFields,
    decay: finite.min(0).lt(1).default(0.9).meta({ description: 'Of the running statistics used in evaluation' }),
  })
  .meta({
    id: 'ModelBatchNorm',
    description: 'Mean 0 and variance 1 of every channel over the batch and all positions',
  });

const dropoutSchema = z
  .strictObject({
    kind: z.literal('dropout'),
    rate: finite.min(0).lt(1).default(0.5).meta({ description: 'Share of the features set to 0 in training' }),
  })
  .meta({
    id: 'ModelDropout',
    description: 'The others grow by 1/(1 − rate). Both passes of a step drop the same ones',
  });

export const modelLayerSchema = z.discriminatedUnion('kind', [
  denseSchema,
  conv2dSchema,
  maxPoolingSchema,
  averagePoolingSchema,
  flattenSchema,
  activationSchema,
  layerNormSchema,
  batchNormSchema,
  dropoutSchema,
]);

export const residualSchema = z
  .strictObject({
    kind: z.literal('residual'),
    layers: z.array(modelLayerSchema).min(1).max(64).meta({ description: 'What is added to the input' }),
    shortcut: z
      .array(modelLayerSchema)
      .max(64)
      .default([])
      .meta({ description: 'What the input goes through before it is added; nothing: the input itself' }),
  })
  .meta({ id: 'ModelResidual', description: 'The sum of two branches: layers, and the input or its shortcut' });

export type ModelLayer = z.output<typeof modelLayerSchema>;
export type Residual = z.output<typeof residualSchema>;
export type Initialization = z.output<typeof initializationSchema>;
export type ActivationName = (typeof ACTIVATIONS)[number];
/** Layers whose map has no parameters of its own; a norm's are those of the scale and shift behind it. */
export type MapModelLayer = Exclude<ModelLayer, { kind: 'dense' | 'conv2d' }>;
export type PoolingLayer = Extract<ModelLayer, { kind: 'max-pooling' | 'average-pooling' }>;
