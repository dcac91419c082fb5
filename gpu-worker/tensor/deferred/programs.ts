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

/** Makes a program of a computation for inputs of these shapes. */
export type Compile = (computation: Computation, inputs: readonly Tensor[]) => Program;

/** Structures that are remembered. */
const REMEMBERED = 128;

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

export class Programs {
  readonly #engine: Engine;
  readonly #compile: Compile;
  /** By structure, in the order of their last use. */
  readonly #programs = new Map<string, Program>();
  /** By value, in the order of their last use; the key tells −0 from 0. */
  readonly #numbers = new Map<string, Tensor>();

  constructor(engine: Engine, compile: Compile) {
    this.#engine = engine;
    this.#compile = compile;
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
    let program = this.#programs.get(layout.text);
    if (program === undefined) {
      const computation: Computation = (given) =>
        perform(this.#engine, layout, given.slice(0, tensors.length), given.slice(tensors.length));
      program = this.#compile(computation, inputs);
    }
    const oldest = remember(this.#programs, layout.text, program, REMEMBERED);
    oldest?.dispose();
    try {
      return program.run(inputs);
    } finally {
      this.#engine.dispose(surplus);
    }
  }

  /** A scalar on the device. */
  #number(value: number, surplus: Tensor[]): Tensor {
    const key = Object.is(value, -0) ? '-0' : String(value);
    const tensor = this.#numbers.get(key) ?? this.#engine.tensor([value], []);
    const oldest = remember(this.#numbers, key, tensor, KEPT_NUMBERS);
    if (oldest !== undefined) surplus.push(oldest);
    return tensor;
  }
}

/** Makes an entry the one used last. @returns what has to go, if that is one too many */
function remember<Value>(entries: Map<string, Value>, key: string, value: Value, capacity: number): Value | undefined {
  entries.delete(key);
  entries.set(key, value);
  const [oldest] = entries;
  if (entries.size <= capacity || oldest === undefined) return undefined;
  entries.delete(oldest[0]);
  return oldest[1];
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

  function placeOf(operand: DeferredTensor | number): Place {
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
    const missing = operation.operands.flatMap((operand) => {
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
