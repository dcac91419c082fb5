/** Hosted mode: mini-batches to tensors, and predictions and weights to bodies. */
import { checkChunkHeader } from '../../shared/data-set.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import { HOSTED_TENSOR } from '../../shared/hosted-tensors.ts';
import { classCount, truthKind } from '../../shared/loss.ts';
import { modelOutputs } from '../../shared/model.ts';
import { encode, readHeader, type SafetensorsHeader } from '../../shared/safetensors.ts';
import { checkPredictionHeader, checkStepHeader } from '../../shared/step.ts';
import type { ReplyPrecision } from '../../shared/transport.ts';
import type { Program } from '../model/program.ts';
import type { Truth } from '../optimizer/losses/loss.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import type { HostedState } from './hosted-step.ts';
import { inPrecision } from './reply-tensors.ts';
import { saveStatistics, saveWeights } from './saved-hosted.ts';
import {
  assertEach,
  assertIndices,
  readFinite,
  tensorNamed,
  type CheckedTensor,
} from '../../shared/checked-tensors.ts';

/** A mini-batch whose header and values are checked. */
export interface DecodedBatch {
  /** B. */
  readonly batch: number;
  /** Copies x_0 to the device, [B, …]. */
  readonly upload: (engine: Engine) => Tensor;
}

/**
 * @param precision of the engine that will compute
 * @throws ProblemError the codes of `checkStepHeader`, `non_finite_value`, `invalid_index` for a label, `invalid_parameter` for a
 *   target or a weight that is out of range
 */
export function decodeHostedStep(
  body: Uint8Array,
  definition: HostedDefinition,
  precision: Engine['precision'],
): DecodedBatch & { readonly truth: Truth } {
  const header = readHeader(body);
  const batch = checkStepHeader(header, definition);
  const { upload, truth } = decode(body, header, definition, precision);
  if (truth === null) throw new TypeError('a step without truth passed the header check');
  return { batch, upload, truth };
}

/** As {@link decodeHostedStep}; `truth` is null where the body has none. */
export function decodePrediction(
  body: Uint8Array,
  definition: HostedDefinition,
  precision: Engine['precision'],
): DecodedBatch & { readonly truth: Truth | null } {
  const header = readHeader(body);
  const batch = checkPredictionHeader(header, definition);
  return { batch, ...decode(body, header, definition, precision) };
}

/** Checks a chunk of a data set, header and values, as a step's are. @throws ProblemError as {@link decodeHostedStep} */
export function checkHostedChunk(body: Uint8Array, definition: HostedDefinition, precision: Engine['precision']): void {
  const header = readHeader(body);
  checkChunkHeader(header, definition);
  decode(body, header, definition, precision);
}

function decode(
  body: Uint8Array,
  header: SafetensorsHeader,
  definition: HostedDefinition,
  precision: Engine['precision'],
): Pick<DecodedBatch, 'upload'> & { readonly truth: Truth | null } {
  const tensors = readFinite(body, header, precision);
  const samples = tensorNamed(tensors, HOSTED_TENSOR.samples);
  const truth = tensors.get(HOSTED_TENSOR.truth);
  const weights = tensors.get(HOSTED_TENSOR.sampleWeights);
  if (truth !== undefined) checkTruth(definition, truth);
  if (weights !== undefined) {
    assertEach(weights, (value) => value >= 0, {
      code: 'invalid_parameter',
      rule: 'a number of at least 0',
      remedy: 'Weigh a sample with 0 to take it out of the loss.',
    });
  }
  return {
    upload: (engine) => engine.tensor(samples.values, samples.entry.shape),
    truth: truth === undefined ? null : { values: truth.values, sampleWeights: weights?.values ?? null },
  };
}

function checkTruth({ model, loss }: HostedDefinition, truth: CheckedTensor): void {
  if (truthKind(loss) === 'labels') {
    assertIndices(truth, classCount(loss, modelOutputs(model)), 'Send labels counted from 0, one per sample.');
  } else if (loss.kind === 'logistic') {
    assertEach(truth, (value) => value >= 0 && value <= 1, {
      code: 'invalid_parameter',
      rule: 'a number from 0 to 1',
      remedy: 'Send the probability of each output, or take loss "mse".',
    });
  }
}

/** @param loss mean loss, where the truth was given */
export function encodePrediction(
  engine: Engine,
  outputs: Tensor,
  loss: number | null,
  precision: ReplyPrecision,
): Uint8Array<ArrayBuffer> {
  const tensor = { name: HOSTED_TENSOR.outputs, shape: outputs.shape, values: engine.read(outputs) };
  return encode([inPrecision(tensor, precision)], loss === null ? {} : { loss: JSON.stringify(loss) });
}

/** The parameters, the running statistics of batch norms, and in `__metadata__` the model and the number of steps taken. */
export function encodeWeights(
  engine: Engine,
  { model }: HostedDefinition,
  program: Program,
  { weights, statistics, optimizer }: HostedState,
): Uint8Array<ArrayBuffer> {
  const tensors = [...saveWeights(engine, program, weights), ...saveStatistics(engine, program, statistics)];
  return encode(tensors, { model: JSON.stringify(model), step: String(optimizer.step) });
}
