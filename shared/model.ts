/** A hosted model: declared, never code. Checked as a whole, so that what is accepted can be run. */
import * as z from 'zod';
import { sizeSchema } from './layer.ts';
import { LIMITS } from './limits.ts';
import { modelLayerSchema, residualSchema } from './model-layer.ts';
import { flattened, stageOf, type Stage } from './model-stages.ts';
import { placeLayers, ShapeError, show, type Placed } from './model-shapes.ts';

export const modelSchema = z
  .strictObject({
    input: z
      .union(
        [z.tuple([sizeSchema]), z.tuple([sizeSchema, sizeSchema]), z.tuple([sizeSchema, sizeSchema, sizeSchema])],
        `it is [n], [S, n] or [height, width, channels], whole numbers from 1 to ${String(LIMITS.features)}`,
      )
      .meta({ description: 'Shape of one sample: [n], [S, n] or [height, width, channels]', example: [8, 8, 1] }),
    layers: z
      .array(z.discriminatedUnion('kind', [modelLayerSchema, residualSchema]))
      .min(1)
      .max(LIMITS.layers)
      .meta({ description: 'In the order of the forward pass' }),
  })
  .superRefine(({ input, layers }, context) => {
    let placed: readonly Placed[];
    try {
      placed = placeLayers(input, layers);
    } catch (error) {
      if (!(error instanceof ShapeError)) throw error;
      // Nothing that is asked of a whole model can be asked of this one.
      context.addIssue({ code: 'custom', path: ['layers', ...error.path], message: error.message, continue: false });
      return;
    }
    const output = placed.at(-1)?.output ?? input;
    if (output.length !== 1) {
      const message = `the model ends with ${show(output)}; the loss takes [C]. Flatten it, or end with a dense layer`;
      context.addIssue({ code: 'custom', path: ['layers'], message });
    }
    const names = flattened(placed).flatMap(({ layer }) => ('name' in layer ? [layer.name] : []));
    const repeated = names.find((name, index) => names.indexOf(name) !== index);
    if (repeated !== undefined) {
      const message = `two layers are named ${repeated}; give every layer a name of its own`;
      context.addIssue({ code: 'custom', path: ['layers'], message });
    }
    if (flattened(placed).every((layer) => stageOf(layer) === null)) {
      const message = 'no layer has parameters to train; add a dense or conv2d layer';
      context.addIssue({ code: 'custom', path: ['layers'], message });
    }
  })
  .meta({ id: 'Model', description: 'A feed-forward network, run and trained by the worker' });

export type Model = z.output<typeof modelSchema>;
export type ModelInput = z.input<typeof modelSchema>;

/** C, what the network ends with. */
export function modelOutputs({ input, layers }: Model): number {
  return placeLayers(input, layers).at(-1)?.output[0] ?? 0;
}

/** Its layers with parameters, in the order of the forward pass. */
export function modelStages({ input, layers }: Model): Stage[] {
  return flattened(placeLayers(input, layers)).flatMap((placed) => stageOf(placed) ?? []);
}

/** Channels of all batch norms together. */
export function batchNormChannels({ input, layers }: Model): number {
  return flattened(placeLayers(input, layers)).reduce(
    (sum, { layer, output }) => sum + (layer.kind === 'batch-norm' ? (output.at(-1) ?? 0) : 0),
    0,
  );
}
