/** The definition of a session in `layers` mode: what a client that runs its own model states once. */
import * as z from 'zod';
import { refreshExcess } from './cost.ts';
import { layerSchema, refuseRepeatedNames, type Layer } from './layer.ts';
import { LIMITS } from './limits.ts';
import { optimizerSchema, type Optimizer } from './optimizer.ts';
import { hasSampleFactors } from './policy-encoding.ts';
import { ttlSecondsSchema } from './session-lifetime.ts';
import { transportSchema } from './transport.ts';

const replySchema = z.enum(['auto', 'update', 'policy']).meta({
  id: 'ReplyForm',
  description:
    'update: finished parameter changes. policy: factors the client applies. auto: policy for feedback, else update',
});

const policyEncodingSchema = z.enum(['auto', 'sample-factors', 'inverse-factors']).meta({
  id: 'PolicyEncoding',
  description:
    'How a policy is handed out. sample-factors: metric-weighted inputs and output gradients, B(n + c) numbers a layer; for dense layers ' +
    'without a sequence axis. inverse-factors: the metric’s inverse, for layers of every kind; you form the sum of your own gradients ' +
    'weighted by κ, and the factors are repeated only when yours are old. auto: whichever is smaller',
});

/** Who wants a hosted model and forgets to say so lands in this mode. */
function missingLayers({ input }: { readonly input?: unknown }): string | undefined {
  if (input !== undefined) return undefined;
  return 'mode "layers", which is the default, needs them; send mode "hosted" to have the service run a model';
}

export const layersDefinitionSchema = z
  .strictObject(
    {
      mode: z.literal('layers').default('layers').meta({
        description: 'The client sends each layer’s input activations and per-sample output gradients',
      }),
      layers: z
        .array(layerSchema, { error: missingLayers })
        .min(1)
        .max(LIMITS.layers)
        .meta({ description: 'In the order of the forward pass' }),
      optimizer: optimizerSchema.prefault({}),
      reply: replySchema.default('auto'),
      policyEncoding: policyEncodingSchema.default('auto'),
      transport: transportSchema,
      ttlSeconds: ttlSecondsSchema,
    },
    { error: ({ code }) => (code === 'unrecognized_keys' ? 'mode "layers" has no such field' : undefined) },
  )
  .superRefine(({ layers, optimizer, reply, policyEncoding }, context) => {
    refuseRepeatedNames(layers, context);
    const excess = refreshExcess({ layers, optimizer });
    if (excess !== null) context.addIssue({ code: 'custom', path: ['layers'], message: excess, input: layers });
    if (replyForm({ optimizer, reply }) === 'policy') {
      const fault = withoutPolicy(optimizer);
      if (fault !== null) {
        const path = reply === 'auto' ? ['optimizer', 'coupling'] : ['reply'];
        const message = `a policy can be handed out with terminal curvature "gradient" and any metric but "ekfac"; ${fault}. Use coupling "gauss-newton-step", "value" or "layerwise" with an update`;
        context.addIssue({ code: 'custom', path, message, input: reply === 'auto' ? optimizer.coupling : reply });
      }
      const unfactored = policyEncoding === 'sample-factors' ? withoutSampleFactors(layers, optimizer) : null;
      if (unfactored !== null) {
        const message = `dense layers without a sequence axis have them, with metric "identity" or "kronecker"; ${unfactored}. Use "inverse-factors" or "auto"`;
        context.addIssue({ code: 'custom', path: ['policyEncoding'], message, input: policyEncoding });
      }
    } else if (policyEncoding !== 'auto') {
      const message =
        'the reply is an update, which has no policy; leave it out, or use coupling "feedback" or reply "policy"';
      context.addIssue({ code: 'custom', path: ['policyEncoding'], message, input: policyEncoding });
    }
    if (optimizer.coupling === 'feedback' && reply === 'update') {
      context.addIssue({
        code: 'custom',
        path: ['reply'],
        message:
          'with coupling "feedback" each layer’s change depends on your second forward pass; ask for "policy", or use coupling "gauss-newton-step"',
        input: reply,
      });
    }
  })
  .meta({ id: 'LayersDefinition', description: 'The client runs its own model' });

/** A complete definition, defaults filled in. */
export type LayersDefinition = z.output<typeof layersDefinitionSchema>;
/** What a client may write: defaults left out. */
export type LayersDefinitionInput = z.input<typeof layersDefinitionSchema>;

/** Why a policy cannot be sample factors, in words; null if it can. */
function withoutSampleFactors(layers: readonly Layer[], { metric }: Optimizer): string | null {
  const layer = layers.find((candidate) => !hasSampleFactors(candidate, metric));
  if (layer === undefined) return null;
  return hasSampleFactors(layer, { kind: 'identity' })
    ? `the metric is "${metric.kind}"`
    : `layer ${layer.name} is another`;
}

/** What of a definition keeps its policy from being handed out, in words; null if nothing does. */
function withoutPolicy(optimizer: Optimizer): string | null {
  const { metric, terminalCurvature, coupling, momentum, lookahead, maximumNorm, maximumPredictedDecrease } = optimizer;
  if (metric.kind === 'ekfac') return 'the metric is "ekfac"';
  if (terminalCurvature.kind !== 'gradient') return `the terminal curvature is "${terminalCurvature.kind}"`;
  if (coupling === 'gauss-newton-step') return 'coupling "gauss-newton-step" predicts the changes itself';
  if (momentum > 0) return 'momentum works on finished updates';
  if (lookahead !== null) return 'lookahead works on finished updates';
  if (maximumNorm !== null) return 'maximumNorm works on finished updates';
  if (maximumPredictedDecrease !== null) return 'maximumPredictedDecrease works on finished updates';
  return null;
}

/** What a reply carries. */
export function replyForm(definition: Pick<LayersDefinition, 'reply' | 'optimizer'>): 'update' | 'policy' {
  if (definition.reply !== 'auto') return definition.reply;
  return definition.optimizer.coupling === 'feedback' ? 'policy' : 'update';
}
