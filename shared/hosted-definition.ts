/** Hosted training: the worker holds model and weights, and runs every pass itself. */
import * as z from 'zod';
import { parameterCount, refreshExcess } from './cost.ts';
import { LIMITS } from './limits.ts';
import { lossProblems, lossSchema } from './loss.ts';
import { modelOutputs, modelSchema, modelStages } from './model.ts';
import { optimizerSchema, type Optimizer } from './optimizer.ts';
import { ttlSecondsSchema } from './session-lifetime.ts';
import { transportSchema } from './transport.ts';

export const hostedDefinitionSchema = z
  .strictObject(
    {
      mode: z.literal('hosted').meta({
        description: 'The worker holds model and weights; the client sends mini-batches',
      }),
      model: modelSchema,
      loss: lossSchema,
      optimizer: optimizerSchema.prefault({}),
      seed: z
        .int()
        .min(0)
        .max(2 ** 32 - 1)
        .default(0)
        .meta({ description: 'Of the initial weights, dropout and drawn labels' }),
      transport: transportSchema,
      ttlSeconds: ttlSecondsSchema,
    },
    { error: ({ code }) => (code === 'unrecognized_keys' ? 'mode "hosted" has no such field' : undefined) },
  )
  .superRefine(({ model, loss, optimizer }, context) => {
    // A model at fault may have no output to hold the loss against.
    if (context.issues.length > 0) return;
    for (const { path, message } of lossProblems(loss, modelOutputs(model), optimizer.terminalCurvature)) {
      context.addIssue({ code: 'custom', path: [...path], message });
    }
    const layers = modelStages(model).map(({ layer }) => layer);
    if (layers.length > LIMITS.layers) {
      const message = `the model has ${String(layers.length)} layers with parameters; at most ${String(LIMITS.layers)} are taken`;
      context.addIssue({ code: 'custom', path: ['model', 'layers'], message });
    }
    const parameters = parameterCount(layers);
    if (parameters > LIMITS.modelParameters) {
      const message = `the model has ${String(parameters)} parameters; at most ${String(LIMITS.modelParameters)} are held. Use narrower layers`;
      context.addIssue({ code: 'custom', path: ['model'], message });
    }
    const excess = refreshExcess({ layers, optimizer });
    if (excess !== null) context.addIssue({ code: 'custom', path: ['model', 'layers'], message: excess });
    const limit = finishedUpdateOption(optimizer);
    if (optimizer.coupling !== 'feedback' || limit === null) return;
    const message =
      'it works on the finished updates of all layers, and coupling "feedback" finishes each in the second forward pass; take another coupling';
    context.addIssue({ code: 'custom', path: ['optimizer', limit], message });
  })
  .meta({ id: 'HostedDefinition', description: 'The worker runs a declared model' });

export type HostedDefinition = z.output<typeof hostedDefinitionSchema>;
export type HostedDefinitionInput = z.input<typeof hostedDefinitionSchema>;

/** The first option in use that needs the update of all layers at once. */
function finishedUpdateOption({ momentum, maximumNorm, maximumPredictedDecrease }: Optimizer): keyof Optimizer | null {
  if (momentum > 0) return 'momentum';
  if (maximumNorm !== null) return 'maximumNorm';
  if (maximumPredictedDecrease !== null) return 'maximumPredictedDecrease';
  return null;
}
