/** Hosted training: the worker holds model and weights, and runs every pass itself. */
import * as z from 'zod';
import { lossProblems, lossSchema } from './loss.ts';
import { modelOutputs, modelSchema } from './model.ts';
import { optimizerSchema, type Optimizer } from './optimizer.ts';

export const hostedDefinitionSchema = z
  .strictObject({
    model: modelSchema,
    loss: lossSchema,
    optimizer: optimizerSchema.prefault({}),
    seed: z
      .int()
      .min(0)
      .max(2 ** 32 - 1)
      .default(0)
      .meta({ description: 'Of the initial weights, dropout and drawn labels' }),
  })
  .superRefine(({ model, loss, optimizer }, context) => {
    // A model at fault may have no output to hold the loss against.
    if (context.issues.length > 0) return;
    for (const { path, message } of lossProblems(loss, modelOutputs(model), optimizer.terminalCurvature)) {
      context.addIssue({ code: 'custom', path: [...path], message });
    }
    const limit = finishedUpdateOption(optimizer);
    if (optimizer.coupling !== 'feedback' || limit === null) return;
    const message =
      'it works on finished updates, and feedback finishes each in the forward pass; take another coupling';
    context.addIssue({ code: 'custom', path: ['optimizer', limit], message });
  })
  .meta({ id: 'HostedDefinition' });

export type HostedDefinition = z.output<typeof hostedDefinitionSchema>;
export type HostedDefinitionInput = z.input<typeof hostedDefinitionSchema>;

/** The first option in use that needs the update of all layers at once. */
function finishedUpdateOption({ momentum, maximumNorm, maximumPredictedDecrease }: Optimizer): keyof Optimizer | null {
  if (momentum > 0) return 'momentum';
  if (maximumNorm !== null) return 'maximumNorm';
  if (maximumPredictedDecrease !== null) return 'maximumPredictedDecrease';
  return null;
}
