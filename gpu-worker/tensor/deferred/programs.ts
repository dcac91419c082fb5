/**
 * Runs recorded operations as one program, compiled once for every structure that occurs.
 *
 * The structure of a computation is its operations with everything about them but the values of its inputs, and the numbers among
 * its operands, which are inputs of the program, too. So equal computations run the same program whatever has been computed
 * before, and give the same results to the last bit.
 */
import { at } from '../../../shared/at.ts';
import type { Engine, Operand, Tensor } from '../engine.ts';
import type { DeferredTensor, Operation } from './tensor.ts';

/** A computation that is a function of its tensors alone. */
export type Computation = (inputs: readonly Tensor[]) => readonly Tensor[];

export interface Program {
  readonly run: Computation;
  readonly dispose: () => void;
}

/**
 * Makes a program of a computation for inputs of these shapes.
 *
 * @throws CompilationError if there is none, though the computation itself is right; else what the computation throws
 */
export type Compile = (computation: Computation, inputs: readonly Tensor[]) => Program;

/** No program can be made of a computation that can be computed operation by operation. */
export class CompilationError extends Error {
  override readonly name = 'CompilationError';
}

/**
 * Operations in all programs together. On TensorFlow a program was seen to take 11 KB for each and 0.3 MB for itself: with these about
 * a gigabyte.
 */
const KEPT_OPERATIONS = 100_000;

/** What a program costs besides its operations, in operations. */
const PROGRAM_OVERHEAD = 25;

/** Times that a structure without a program is computed operation by operation before another attempt at one. */
const RUNS_BETWEEN_ATTEMPTS = 100;

/** Operations from which on a program is worth its compilation; fewer are computed one by one. */
const FEWEST_OPERATIONS = 4;

/** Numbers that stay on the device. */
const KEPT_NUMBERS = 512;

/** A computation laid out: its inputs, its numbers, its operations in an order in which they can be computed. */
interface Layout {
  readonly text: string;
  readonly inputs: readonly DeferredTensor[];
  readonly numbers: readonly number[];
  readonly steps: readonly Step[];
  readonly outputs: readonly (readonly [step: number, result: number])[];
}

type Place =
  | { readonly kind: 'input'; readonly index: number }
  | { readonly kind: 'number'; readonly index: number }
  | { readonly kind: 'result'; readonly step: number; readonly index: number };

interface Step {
  readonly operation: Operation;
  readonly operands: readonly Place[];
}

/** A structure that has occurred. */
interface Known {
  /** Null if none could be made. */
  program: Program | null;
  runs: number;
  /** Memory that it takes, in operations. */
  readonly weight: number;
}

export class Programs {
  readonly #engine: Engine;
  readonly #compile: Compile;
  readonly #report: (reason: string) => void;
  /** By structure, in the order of their last use. */
  readonly #known = new Map<string, Known>();
  #weight = 0;
  /** By value, in the order of their last use; the key tells −0 from 0. */
  readonly #numbers = new Map<string, Tensor>();

  /** @param report hears, once for each structure, why no program could be made of it */
  constructor(engine: Engine, compile: Compile, report: (reason: string) => void) {
    this.#engine = engine;
    this.#compile = compile;
    this.#report = report;
  }

  /** Tensors on the device that are nobody's. */
  get keptTensors(): number {
    return this.#numbers.size;
  }

  /** Computes pending tensors, together. @param upload the device's tensor of a computation's input */
  evaluate(tensors: readonly DeferredTensor[], upload: (tensor: DeferredTensor) => Tensor): void {
    const pending = [...new Set(tensors)].filter(({ source }) => source.kind === 'pending');
    if (pending.length === 0) return;
    const layout = layOut(pending);
    const inputs = layout.inputs.map(upload);
    const results =
      layout.steps.length < FEWEST_OPERATIONS
        ? this.#engine.scope(() => perform(this.#engine, layout, inputs, layout.numbers))
        : this.#run(layout, inputs);
    for (const [index, tensor] of pending.entries()) {
      const result = results[index];
      if (result === undefined) throw new RangeError('the program has too few results');
      tensor.source = { kind: 'device', tensor: result };
    }
  }

  #run(layout: Layout, tensors: readonly Tensor[]): readonly Tensor[] {
    // A number that has to go for another may be an input, too: it goes at the end.
    const surplus: Tensor[] = [];
    const inputs = [...tensors, ...layout.numbers.map((value) => this.#number(value, surplus))];
    const computation: Computation = (given) =>
      perform(this.#engine, layout, given.slice(0, tensors.length), given.slice(tensors.length));
    try {
      const known = this.#know(layout);
      if (known.program === null && known.runs % RUNS_BETWEEN_ATTEMPTS === 0) {
        known.program = this.#attempt(computation, inputs, known);
      }
      known.runs++;
      return known.program?.run(inputs) ?? this.#engine.scope(() => computation(inputs));
    } finally {
      this.#engine.dispose(surplus);
    }
  }

  #attempt(computation: Computation, inputs: readonly Tensor[], { runs, weight }: Known): Program | null {
    try {
      return this.#compile(computation, inputs);
    } catch (error) {
      if (!(error instanceof CompilationError)) throw error;
      if (runs === 0) {
        const operations = String(weight - PROGRAM_OVERHEAD);
        this.#report(
          `${operations} operations are computed one by one, since no graph can be made of them: ${error.message}`,
        );
      }
      return null;
    }
  }

  /** What is known of a structure, which becomes the one used last; those that were used the longest ago make room. */
  #know({ text, steps }: Layout): Known {
    const known = this.#known.get(text) ?? { program: null, runs: 0, weight: steps.length + PROGRAM_OVERHEAD };
    if (!this.#known.delete(text)) this.#weight += known.weight;
    this.#known.set(text, known);
    for (const [oldest, { program, weight }] of this.#known) {
      if (this.#weight <= KEPT_OPERATIONS || oldest === text) break;
      this.#known.delete(oldest);
      this.#weight -= weight;
      program?.dispose();
    }
    return known;
  }

  /** A scalar on the device. */
  #number(value: number, surplus: Tensor[]): Tensor {
    const key = Object.is(value, -0) ? '-0' : String(value);
    const tensor = this.#numbers.get(key) ?? this.#engine.tensor([value], []);
    // The one used last goes last.
    this.#numbers.delete(key);
    this.#numbers.set(key, tensor);
    const [oldest] = this.#numbers;
    if (this.#numbers.size > KEPT_NUMBERS && oldest !== undefined) {
      this.#numbers.delete(oldest[0]);
      surplus.push(oldest[1]);
    }
    return tensor;
  }
}

/** Operation by operation; what no later operation needs is freed on the way. */
function perform(
  engine: Engine,
  { steps, outputs }: Layout,
  inputs: readonly Tensor[],
  numbers: readonly Operand[],
): Tensor[] {
  const results: (readonly Tensor[])[] = [];
  const needed = lastUses(steps, outputs);
  for (const [step, { operation, operands }] of steps.entries()) {
    const values = operands.map((place): Operand => {
      switch (place.kind) {
        case 'input':
          return at(inputs, place.index);
        case 'number':
          return at(numbers, place.index);
        case 'result':
          return at(at(results, place.step), place.index);
      }
    });
    results.push(operation.perform(values));
    for (const done of needed.get(step) ?? []) engine.dispose(at(results, done));
  }
  return outputs.map(([step, result]) => at(at(results, step), result));
}

/** By step, the steps whose results it is the last to need; those that have an output are needed to the end. */
function lastUses(steps: readonly Step[], outputs: Layout['outputs']): ReadonlyMap<number, readonly number[]> {
  const last = new Map<number, number>();
  for (const [step, { operands }] of steps.entries()) {
    last.set(step, step);
    for (const place of operands) if (place.kind === 'result') last.set(place.step, step);
  }
  for (const [step] of outputs) last.delete(step);
  const byStep = new Map<number, number[]>();
  for (const [step, user] of last) byStep.set(user, [...(byStep.get(user) ?? []), step]);
  return byStep;
}

function layOut(pending: readonly DeferredTensor[]): Layout {
  const inputs: DeferredTensor[] = [];
  const inputIndex = new Map<DeferredTensor, number>();
  const numbers: number[] = [];
  const steps: Step[] = [];
  const stepIndex = new Map<Operation, number>();
  const texts: string[] = [];

  function placeOf(given: DeferredTensor | number): Place {
    const operand = withoutIdentities(given);
    if (typeof operand === 'number') return { kind: 'number', index: numbers.push(operand) - 1 };
    const { source } = operand;
    if (source.kind === 'pending') {
      return { kind: 'result', step: stepOf(stepIndex, source.operation), index: source.result };
    }
    let index = inputIndex.get(operand);
    if (index === undefined) {
      index = inputs.push(operand) - 1;
      inputIndex.set(operand, index);
    }
    return { kind: 'input', index };
  }

  // Depth first without recursion: a long chain of operations must not exhaust the stack.
  const stack = pending.toReversed().flatMap(({ source }) => (source.kind === 'pending' ? [source.operation] : []));
  for (let operation = stack.at(-1); operation !== undefined; operation = stack.at(-1)) {
    if (stepIndex.has(operation)) {
      stack.pop();
      continue;
    }
    const missing = operation.operands.map(withoutIdentities).flatMap((operand) => {
      if (typeof operand === 'number' || operand.source.kind !== 'pending') return [];
      return stepIndex.has(operand.source.operation) ? [] : [operand.source.operation];
    });
    if (missing.length > 0) {
      stack.push(...missing.toReversed());
      continue;
    }
    stack.pop();
    const operands = operation.operands.map(placeOf);
    stepIndex.set(operation, steps.push({ operation, operands }) - 1);
    texts.push(`${operation.text}(${operands.map(textOf).join()})`);
  }
  const outputs = pending.map(({ source }): readonly [number, number] => {
    if (source.kind !== 'pending') throw new TypeError('an output that is computed already');
    return [stepOf(stepIndex, source.operation), source.result];
  });
  const shapes = inputs.map(({ shape }) => `[${shape.join()}]`).join('');
  return { text: `${shapes};${texts.join(';')};${outputs.join(' ')}`, inputs, numbers, steps, outputs };
}

/** What an operand is the same as, behind operations that change nothing: many shapes are what they have to be already. */
function withoutIdentities(operand: DeferredTensor | number): DeferredTensor | number {
  let same = operand;
  while (typeof same !== 'number' && same.source.kind === 'pending' && same.source.operation.isIdentity) {
    const [original] = same.source.operation.operands;
    if (original === undefined) throw new TypeError('an identity without an operand');
    same = original;
  }
  return same;
}

function textOf(place: Place): string {
  switch (place.kind) {
    case 'input':
      return `i${String(place.index)}`;
    case 'number':
      return '#';
    case 'result':
      return `${String(place.step)}.${String(place.index)}`;
  }
}

function stepOf(steps: ReadonlyMap<Operation, number>, operation: Operation): number {
  const step = steps.get(operation);
  if (step === undefined) throw new TypeError('an operand that is not computed before its operation');
  return step;
}
