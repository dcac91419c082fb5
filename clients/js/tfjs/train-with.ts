/** Training a TensorFlow.js layers model through the service. */
import type { HostedDefinitionInput } from '../../../shared/hosted-definition.ts';
import type { KernelDefinitionInput } from '../../../shared/kernel-definition.ts';
import type { LayersDefinitionInput } from '../../../shared/layers-definition.ts';
import type { NarrowDtype } from '../../../shared/safetensors.ts';
import { DdpnoptClient } from '../client.ts';
import { declareModel, HostedTrainer, weightsOf } from './hosted-trainer.ts';
import { factorSizes, KernelTrainer } from './kernel-trainer.ts';
import { LayersTrainer } from './layers-trainer.ts';
import { LocalModel } from './local-model.ts';
import { readModel, UnsupportedLayerError, type TfjsLoss } from './read-model.ts';
import type { LayersModel, TensorFlow } from './tensorflow.ts';
import type { TrainerSetting } from './trainer.ts';

export interface SessionOptions {
  /** TensorFlow.js itself: `import * as tf from '@tensorflow/tfjs'`. */
  readonly tf: TensorFlow;
  /** Where the service is; or a client, with options of its own. */
  readonly url?: string | URL;
  readonly client?: DdpnoptClient;
  /**
   * `softmax-cross-entropy` and `logistic` take what comes before the softmax or sigmoid that the model ends with. Unless given it is
   * that of `model.compile`: categoricalCrossentropy, sparseCategoricalCrossentropy, binaryCrossentropy or meanSquaredError; the
   * service sums the last two over the outputs instead of averaging, and halves the squares.
   */
  readonly loss?: TfjsLoss;
  /** Of dropouts, and in mode `hosted` of drawn labels; 0 unless given. */
  readonly seed?: number;
  /** Element type in which batches and gradients travel; float32 unless given. */
  readonly sendAs?: NarrowDtype;
  readonly signal?: AbortSignal;
}

export type LayersModeOptions = SessionOptions & {
  readonly mode?: 'layers';
  readonly optimizer?: LayersDefinitionInput['optimizer'];
  /** More of the session's definition. */
  readonly definition?: Omit<LayersDefinitionInput, 'mode' | 'layers' | 'optimizer'>;
};

export type KernelModeOptions = SessionOptions & {
  readonly mode: 'kernel';
  /** With the service's Kronecker factors unless you name another metric. */
  readonly optimizer?: KernelDefinitionInput['optimizer'];
  /** Steps from one that carries factor statistics to the next; 10 unless given. */
  readonly statisticsEvery?: number;
  /** More of the session's definition. */
  readonly definition?: Omit<KernelDefinitionInput, 'mode' | 'layers' | 'optimizer'>;
};

export type HostedModeOptions = SessionOptions & {
  readonly mode: 'hosted';
  readonly optimizer?: HostedDefinitionInput['optimizer'];
  /** More of the session's definition. */
  readonly definition?: Omit<HostedDefinitionInput, 'mode' | 'model' | 'loss' | 'optimizer' | 'seed'>;
};

/**
 * Begins a session that trains this model. Dispose the trainer when done; the model stays yours, and is used as ever.
 *
 * `layers`: the passes are computed here, the service computes the steps. `kernel`: so, too, but neither samples nor parameters leave the
 * program; for dense layers and convolutions. `hosted`: the service computes everything, from the model's declaration and weights.
 *
 * @throws UnsupportedLayerError for a layer that the mode does not take; DdpnoptError, ConnectionError; TypeError without an address;
 *   RangeError for an option that the mode does not take
 */
export function trainWith(model: LayersModel, options: HostedModeOptions): Promise<HostedTrainer>;
export function trainWith(model: LayersModel, options: KernelModeOptions): Promise<KernelTrainer>;
export function trainWith(model: LayersModel, options: LayersModeOptions): Promise<LayersTrainer>;
export async function trainWith(
  model: LayersModel,
  options: HostedModeOptions | KernelModeOptions | LayersModeOptions,
): Promise<HostedTrainer | KernelTrainer | LayersTrainer> {
  const { tf, loss = compiledLoss(model), seed = 0, sendAs, signal } = options;
  const layers = readModel(model, loss);
  const client = options.client ?? newClient(options.url);
  const requests = signal === undefined ? {} : { signal };
  const setting: TrainerSetting = { tf, loss, layers, outputs: model.outputs[0]?.shape.at(-1) ?? 0, seed, sendAs };
  if (options.mode === 'hosted') {
    const input = (model.inputs[0]?.shape ?? []).slice(1).map((size) => size ?? 0);
    const definition = {
      ...options.definition,
      ...optimizerOf(options),
      seed,
      model: declareModel(layers, input),
      loss: { kind: loss },
    };
    const initialWeights = await weightsOf(layers);
    return new HostedTrainer(setting, await client.createHostedSession(definition, { ...requests, initialWeights }));
  }
  const local = new LocalModel(setting);
  refuseLevenbergMarquardt(options.optimizer);
  if (options.mode === 'kernel') {
    const { optimizer = {}, statisticsEvery = 10 } = options;
    if (!Number.isInteger(statisticsEvery) || statisticsEvery < 1) {
      throw new RangeError(`statisticsEvery is ${String(statisticsEvery)}; a whole number from 1 was expected`);
    }
    if (optimizer.terminalCurvature !== undefined && optimizer.terminalCurvature.kind !== 'gradient') {
      throw new RangeError(`terminal curvature "${optimizer.terminalCurvature.kind}" is not taken by this adapter in mode "kernel"; use "gradient"`); // prettier-ignore
    }
    const stages = local.stages.map((stage) => {
      const factors = factorSizes(stage);
      return { name: stage.name, factors: optimizer.metric?.kind === 'client' ? null : factors };
    });
    const definition = {
      ...options.definition,
      optimizer: { metric: { kind: 'kronecker' as const }, ...optimizer },
      layers: stages,
    };
    return new KernelTrainer(setting, await client.createKernelSession(definition, requests), local, statisticsEvery);
  }
  const definition = {
    ...options.definition,
    ...optimizerOf(options),
    layers: local.stages.map((stage) => stage.definition),
  };
  return new LayersTrainer(setting, await client.createSession(definition, requests), local);
}

function optimizerOf<Optimizer>({ optimizer }: { readonly optimizer?: Optimizer }): { readonly optimizer?: Optimizer } {
  return optimizer === undefined ? {} : { optimizer };
}

function refuseLevenbergMarquardt(
  optimizer: { readonly learningRate?: { readonly kind: string } | undefined } | undefined,
): void {
  if (optimizer?.learningRate?.kind !== 'levenberg-marquardt') return;
  throw new RangeError(
    'learning rate "levenberg-marquardt" judges steps by losses that this adapter does not keep; use mode "hosted"',
  );
}

function newClient(url: string | URL | undefined): DdpnoptClient {
  if (url === undefined) throw new TypeError('trainWith needs the url of the service, or a client');
  return new DdpnoptClient({ url });
}

function compiledLoss({ loss }: LayersModel): TfjsLoss {
  switch (loss) {
    case 'categoricalCrossentropy':
    case 'sparseCategoricalCrossentropy':
      return 'softmax-cross-entropy';
    case 'binaryCrossentropy':
      return 'logistic';
    case 'meanSquaredError':
      return 'mse';
    default:
      throw new UnsupportedLayerError(null, 'the model is not compiled with a loss that the service has; give loss: "softmax-cross-entropy", "logistic" or "mse"'); // prettier-ignore
  }
}
