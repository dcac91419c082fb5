/** What the service can do and how much of it, for programs that ask before they send. */
import * as z from 'zod';
import { API_VERSIONS, apiVersionSchema, LATEST_API_VERSION } from './api-version.ts';
import { layerSchema } from './layer.ts';
import { LIMITS } from './limits.ts';
import { lossSchema } from './loss.ts';
import { modelLayerSchema } from './model-layer.ts';
import { optimizerSchema } from './optimizer.ts';
import { FLOATING_DTYPES } from './safetensors.ts';
import { sessionDefinitionSchema } from './session.ts';

const names = z.array(z.string());
const limit = z.number();

export const capabilitiesSchema = z
  .object({
    apiVersions: z.array(apiVersionSchema).meta({ description: 'What `DDPNOpt-Version` may be, the latest last' }),
    latestApiVersion: apiVersionSchema,
    modes: names,
    layers: names.meta({ description: 'Kinds of layers in mode `layers`' }),
    modelLayers: names.meta({ description: 'Kinds of layers of a hosted model' }),
    losses: names.meta({ description: 'Losses of a hosted model' }),
    metrics: names,
    terminalCurvatures: names,
    learningRates: names,
    couplings: names,
    batchCouplings: names,
    elementTypes: names.meta({
      description: 'Of tensors, as safetensors names them; I8 besides where a session opts in',
    }),
    limits: z
      .object({
        bodyBytes: limit.meta({ description: 'Bytes of one request body' }),
        jsonTensorBytes: limit.meta({ description: 'Bytes of tensors as JSON' }),
        sessionDocumentBytes: limit.meta({ description: 'Bytes of the document that creates a session' }),
        batch: limit.meta({ description: 'Samples in one batch' }),
        parts: limit.meta({ description: 'Parts of one step' }),
        stepPartsBytes: limit.meta({ description: 'Bytes of the parts of one step together' }),
        dataSetBytes: limit.meta({ description: 'Bytes of the chunks of one session’s data set' }),
        dataChunks: limit.meta({ description: 'Chunks of one data set' }),
        dataSamples: limit.meta({ description: 'Samples of one data set' }),
        runSteps: limit.meta({ description: 'Steps of one run' }),
        eventHistory: limit.meta({ description: 'Last steps of a session whose events are kept' }),
        layers: limit.meta({ description: 'Layers with parameters in one session' }),
        features: limit.meta({ description: 'Features or channels on either side of a layer' }),
        genericParameters: limit.meta({ description: 'Parameters of one generic layer' }),
        modelParameters: limit.meta({ description: 'Parameters of a hosted model' }),
        stepBytes: limit.meta({ description: 'Bytes of memory of one step beside the state' }),
        edgeSolveWork: limit.meta({ description: 'S·B³ up to which systems are solved where the request arrives' }),
        ttlSeconds: z.object({ minimum: limit, default: limit, maximum: limit }),
      })
      .meta({ description: 'The largest values that are taken' }),
  })
  .meta({ id: 'Capabilities' });

export type Capabilities = z.output<typeof capabilitiesSchema>;

interface KindUnion {
  readonly options: readonly { readonly shape: { readonly kind: z.ZodLiteral<string> | z.ZodEnum } }[];
}

/** What `kind` may be, from the schema that checks it. */
function kindsOf({ options }: KindUnion): string[] {
  return options.flatMap(({ shape: { kind } }) =>
    kind instanceof z.ZodEnum ? kind.options.map(String) : [...kind.values],
  );
}

const { learningRate, metric, terminalCurvature, coupling, batchCoupling } = optimizerSchema.shape;

export const CAPABILITIES: Capabilities = {
  apiVersions: [...API_VERSIONS],
  latestApiVersion: LATEST_API_VERSION,
  modes: sessionDefinitionSchema.options.flatMap(({ shape: { mode } }) => [
    ...(mode instanceof z.ZodDefault ? mode.unwrap() : mode).values,
  ]),
  layers: kindsOf(layerSchema),
  modelLayers: [...kindsOf(modelLayerSchema), 'residual'],
  losses: kindsOf(lossSchema),
  metrics: kindsOf(metric.unwrap()),
  terminalCurvatures: kindsOf(terminalCurvature.unwrap()),
  learningRates: kindsOf(learningRate.unwrap()),
  couplings: [...coupling.unwrap().options],
  batchCouplings: [...batchCoupling.unwrap().options],
  elementTypes: [...FLOATING_DTYPES],
  limits: capabilitiesSchema.shape.limits.parse(LIMITS),
};
