/**
 * Parts of a step: mini-batches that are sent one by one, by one client or by several, and taken together as one batch, in the
 * order of their numbers. What comes out is the step of that batch, since it is that batch.
 */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { HOSTED_TENSOR, hostedStepTensors } from './hosted-tensors.ts';
import { kernelStepTensors } from './kernel-tensors.ts';
import { LIMITS } from './limits.ts';
import {
  commonDtype,
  elementBytes,
  emptyBody,
  formatShape,
  layOut,
  readValues,
  type BodyPlan,
  type SafetensorsHeader,
  type TensorEntry,
} from './safetensors.ts';
import { elementCount } from './shape.ts';
import { checkStepHeader, expectedTensors, type StepDefinition } from './step.ts';

const stepPartSchema = z.object({
  part: z.int().meta({ description: 'k' }),
  samples: z.int().meta({ description: 'Its samples' }),
  firstSample: z.int().meta({
    description:
      'Where they begin in the whole batch, and so their rows of a policy’s tensors, if no part before it is missing',
  }),
  bytes: z.int().meta({ description: 'Size of its body' }),
});

export const stepPartsSchema = z
  .object({
    step: z.int().meta({ description: 'Sequence number of the step' }),
    parts: z.array(stepPartSchema).meta({ description: 'In the order in which they make up the batch' }),
    samples: z.int().meta({ description: 'Of all parts together' }),
    committed: z.boolean().meta({ description: 'Whether the step has been taken' }),
    expiresAt: z.iso.datetime().nullable().meta({
      description:
        'When the parts are dropped unless another one comes; null once they are committed, and where there are none',
    }),
  })
  .meta({ id: 'StepParts' });

export type StepParts = z.output<typeof stepPartsSchema>;

export const commitSchema = z
  .strictObject({
    parts: z
      .int()
      .min(1)
      .max(LIMITS.parts)
      .meta({ description: 'How many parts the step has: those from 0 on', example: 2 }),
  })
  .meta({ id: 'StepCommit' });

export type StepCommit = z.output<typeof commitSchema>;

/** How a part’s number is written. */
export const PART_NUMBER = /^(0|[1-9][0-9]{0,8})$/;

/** @throws ProblemError `invalid_parameter` */
export function parsePartNumber(text: string): number {
  const k = PART_NUMBER.test(text) ? Number(text) : Number.NaN;
  if (k < LIMITS.parts) return k;
  throw new ProblemError('invalid_parameter', {
    param: 'k',
    detail: `The part number ${JSON.stringify(text)} is not a whole number from 0 to ${String(LIMITS.parts - 1)}.`,
    remedy: 'Number the parts of a step 0, 1, 2, …',
  });
}

/**
 * What becomes of a tensor: `rows` follow one another; what does not depend on the batch is the `same` in all parts; versions are the
 * `oldest`, so that the reply serves everybody; statistics are the `mean` over the samples.
 */
type Union = 'rows' | 'same' | 'oldest' | 'mean';

/** @throws ProblemError `parts_unsupported` */
function unions(definition: StepDefinition): Map<string, Union> {
  switch (definition.mode) {
    case 'layers':
      return new Map(
        expectedTensors(definition).map(({ name, role }) => [
          name,
          role === 'parameter' ? 'same' : role === 'metricVersions' ? 'oldest' : 'rows',
        ]),
      );
    case 'hosted':
      return new Map(hostedStepTensors(definition).map(({ name }) => [name, 'rows']));
    case 'kernel': {
      if (definition.optimizer.batchCoupling !== 'diagonal') {
        throw new ProblemError('parts_unsupported', {
          detail:
            'In mode "kernel" a batch’s Gram matrices have blocks between samples of different parts, which no part has; they cannot be put together from those of the parts.',
          remedy:
            'Send the step as one, with the Gram matrices of the whole batch; or take batchCoupling "diagonal", which has no such blocks, or mode "layers".',
        });
      }
      return new Map(
        kernelStepTensors(definition).map(({ name, role }) => [
          name,
          role === 'inputFactor' || role === 'outputFactor' ? 'mean' : role === 'metricVersions' ? 'oldest' : 'rows',
        ]),
      );
    }
  }
}

/** The tensors that must be the same in all parts. */
export function sharedTensors(definition: StepDefinition): ReadonlySet<string> {
  return new Set([...unions(definition)].filter(([, union]) => union === 'same').map(([name]) => name));
}

/** A part, of which the header is known. */
export interface PartHeader {
  /** k. */
  readonly part: number;
  readonly samples: number;
  readonly header: SafetensorsHeader;
}

/**
 * Checks a part by itself.
 *
 * @returns its samples
 * @throws ProblemError as `checkStepHeader`; `parts_unsupported`
 */
export function checkPartHeader(header: SafetensorsHeader, definition: StepDefinition): number {
  unions(definition);
  return checkStepHeader(header, definition);
}

/**
 * Checks whether parts make up a batch.
 *
 * @param parts in order, each of which has passed {@link checkPartHeader}
 * @throws ProblemError `step_too_large`, `shape_mismatch`, `missing_tensor` where only some have a tensor
 */
export function planUnion(parts: readonly PartHeader[], definition: StepDefinition): BodyPlan {
  const tensors = [...unions(definition)].flatMap(([name, union]) => unionTensor(name, union, parts));
  const samples = parts.reduce((sum, part) => sum + part.samples, 0);
  if (samples > LIMITS.batch) {
    throw new ProblemError('step_too_large', {
      detail: `The parts have ${String(samples)} samples together; a batch has at most ${String(LIMITS.batch)}.`,
      remedy: 'Commit the parts that are there, or send smaller ones.',
    });
  }
  // Wide elements first, so that every tensor is aligned to its element.
  const plan = layOut(tensors.toSorted((a, b) => elementBytes(b.dtype) - elementBytes(a.dtype)));
  if (plan.length > LIMITS.stepPartsBytes) {
    throw new ProblemError('step_too_large', {
      detail: `The parts make up a batch of ${String(plan.length)} bytes; at most ${String(LIMITS.stepPartsBytes)} are taken.`,
      remedy: 'Commit the parts that are there, or send smaller ones, or narrower numbers.',
    });
  }
  checkStepHeader(plan.header, definition);
  return plan;
}

type UnionTensor = Pick<TensorEntry, 'name' | 'dtype' | 'shape'>;

function unionTensor(name: string, union: Union, parts: readonly PartHeader[]): UnionTensor[] {
  const found = parts.flatMap(({ part, header }) => {
    const entry = entryOf(header, name);
    return entry === undefined ? [] : [{ part, entry }];
  });
  const [first] = found;
  if (first === undefined) return [];
  const dtype = commonDtype(found.map(({ entry }) => entry.dtype));
  const [, ...rest] = first.entry.shape;
  switch (union) {
    case 'same':
      return [first.entry.dtype === 'I8' ? { ...first.entry, dtype: 'F32' } : first.entry];
    case 'oldest':
      // Whoever names none holds none.
      return [{ name, dtype: 'F64', shape: first.entry.shape }];
    case 'mean':
      assertInAll(name, found.length, parts);
      return [{ name, dtype: 'F64', shape: first.entry.shape }];
    case 'rows': {
      // A sample that is not weighed has the weight 1.
      if (name !== HOSTED_TENSOR.sampleWeights) assertInAll(name, found.length, parts);
      for (const { part, entry } of found) {
        const [, ...others] = entry.shape;
        if (others.length === rest.length && others.every((size, axis) => size === rest[axis])) continue;
        throw new ProblemError('shape_mismatch', {
          param: name,
          detail: `${name} of part ${String(part)} has shape ${formatShape(entry.shape)}; of part ${String(first.part)} it has ${formatShape(first.entry.shape)}.`,
          remedy:
            'Send parts of one batch with the same shapes behind their samples: sequences of one length, padded if need be.',
        });
      }
      const samples = parts.reduce((sum, part) => sum + part.samples, 0);
      const isComplete = found.length === parts.length;
      return [{ name, dtype: isComplete ? dtype : 'F64', shape: [samples, ...rest] }];
    }
  }
}

function assertInAll(name: string, count: number, parts: readonly PartHeader[]): void {
  if (count === parts.length) return;
  const lacking = parts.find(({ header }) => entryOf(header, name) === undefined);
  throw new ProblemError('missing_tensor', {
    param: name,
    detail: `${name} came with some parts, and not with part ${String(lacking?.part)}.`,
    remedy: `Send ${name} with all parts of the step, or with none.`,
  });
}

function entryOf({ entries }: SafetensorsHeader, name: string): TensorEntry | undefined {
  return entries.find((entry) => entry.name === name);
}

/** The body of the whole batch, put together part by part. */
export class UnionBody {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #plan: BodyPlan;
  readonly #unions: ReadonlyMap<string, Union>;
  readonly #samples: number;
  #position = 0;

  /** @param plan of these parts, by {@link planUnion} */
  constructor(plan: BodyPlan, definition: StepDefinition, parts: readonly PartHeader[]) {
    this.#plan = plan;
    this.#unions = unions(definition);
    this.#samples = parts.reduce((sum, { samples }) => sum + samples, 0);
    this.bytes = emptyBody(plan);
  }

  /** Takes in the next part. @param body the whole body that its header is of */
  add({ samples, header }: PartHeader, body: Uint8Array): void {
    for (const target of this.#plan.header.entries) {
      const source = entryOf(header, target.name);
      switch (this.#unions.get(target.name)) {
        case 'rows':
          this.#addRows(target, source, samples, header, body);
          break;
        case 'same':
          if (this.#position === 0 && source !== undefined) this.#copy(target, 0, source, header, body);
          break;
        case 'oldest': {
          const versions = source === undefined ? null : readValues(body, header, source);
          const oldest = this.#values(target);
          for (const t of oldest.keys()) {
            const version = versions?.[t] ?? 0;
            oldest[t] = this.#position === 0 ? version : Math.min(oldest[t] ?? 0, version);
          }
          break;
        }
        case 'mean': {
          if (source === undefined) break;
          const values = readValues(body, header, source);
          const mean = this.#values(target);
          const share = samples / this.#samples;
          for (const i of mean.keys()) mean[i] = (mean[i] ?? 0) + share * (values[i] ?? 0);
          break;
        }
        case undefined:
          throw new TypeError(`${target.name} is in the plan, but not in the definition`);
      }
    }
    this.#position += samples;
  }

  #addRows(
    target: TensorEntry,
    source: TensorEntry | undefined,
    samples: number,
    header: SafetensorsHeader,
    body: Uint8Array,
  ): void {
    const rowElements = elementCount(target.shape.slice(1));
    const first = this.#position * rowElements;
    if (source === undefined) this.#values(target).fill(1, first, first + samples * rowElements);
    else this.#copy(target, first, source, header, body);
  }

  /** Copies values as they are, or as what they are read as, to an element of the target and those after it. */
  #copy(target: TensorEntry, first: number, source: TensorEntry, header: SafetensorsHeader, body: Uint8Array): void {
    if (source.dtype === target.dtype) {
      const from = header.dataStart + source.begin;
      const bytes = body.subarray(from, header.dataStart + source.end);
      this.bytes.set(bytes, this.#plan.header.dataStart + target.begin + first * elementBytes(target.dtype));
    } else this.#values(target).set(readValues(body, header, source), first);
  }

  /** A tensor of the body in F32 or F64, to be written. */
  #values({ dtype, begin, end }: TensorEntry): Float32Array | Float64Array {
    const start = this.#plan.header.dataStart + begin;
    const { buffer } = this.bytes;
    return dtype === 'F64'
      ? new Float64Array(buffer, start, (end - begin) / 8)
      : new Float32Array(buffer, start, (end - begin) / 4);
  }
}
