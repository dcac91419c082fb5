/**
 * Runs recorded operations as one program, compiled once for every structure that occurs.
 *
 * The structure of a computation is its operations with everything about them but two things: the values of its inputs, and the
 * numbers among its operands. A structure that occurs for the first time is computed operation by operation. When it occurs again
 * it is compiled, with the numbers that have stayed the same frozen into the program and those that have not as further
 * inputs; should a frozen one change later, it is compiled anew with that one as an input, too.
 */
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

interface Structure {
  /** The numbers among the operands when it last occurred. */
  numbers: readonly number[];
  /** Which of them are inputs of the program. */
  isInput: readonly boolean[];
  /** Null until it occurs again, and while what is frozen has changed. */
  program: Program | null;
}

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
  /** In the order of their last use. */
  readonly #structures = new Map<string, Structure>();

  constructor(engine: Engine, compile: Compile) {
    this.#engine = engine;
    this.#compile = compile;
  }

  /** Computes pending tensors, together. @param upload the device's tensor of a computation's input */
  evaluate(tensors: readonly DeferredTensor[], upload: (tensor: DeferredTensor) => Tensor): void {
    const pending = [...new Set(tensors)].filter(({ source }) => source.kind === 'pending');
    if (pending.length === 0) return;
    const layout = layOut(pending);
    const inputs = layout.inputs.map(upload);
    const results = this.#engine.scope(() => this.#run(layout, inputs));
    for (const [index, tensor] of pending.entries()) {
      const result = results[index];
      if (result === undefined) throw new RangeError('the program has too few results');
      tensor.source = { kind: 'device', tensor: result };
    }
  }

  #run(layout: Layout, inputs: readonly Tensor[]): readonly Tensor[] {
    const { text, numbers } = layout;
    const known = this.#structures.get(text);
    if (known === undefined) {
      this.#remember(text, { numbers, isInput: numbers.map(() => false), program: null });
      return perform(layout, inputs, numbers);
    }
    this.#remember(text, known);
    const isInput = numbers.map(
      (value, index) => known.isInput[index] === true || !Object.is(value, known.numbers[index]),
    );
    known.numbers = numbers;
    if (isInput.some((value, index) => value !== known.isInput[index])) {
      known.program?.dispose();
      known.program = null;
      known.isInput = isInput;
    }
    const changing = numbers.filter((_, index) => isInput[index]).map((value) => this.#engine.tensor([value], []));
    const all = [...inputs, ...changing];
    known.program ??= this.#compile((given) => {
      let next = inputs.length;
      const operands = numbers.map((value, index): Operand => {
        if (isInput[index] !== true) return value;
        return at(given, next++);
      });
      return perform(layout, given, operands);
    }, all);
    return known.program.run(all);
  }

  #remember(text: string, structure: Structure): void {
    this.#structures.delete(text);
    this.#structures.set(text, structure);
    const [oldest] = this.#structures;
    if (this.#structures.size <= REMEMBERED || oldest === undefined) return;
    oldest[1].program?.dispose();
    this.#structures.delete(oldest[0]);
  }
}

/** Operation by operation. */
function perform({ steps, outputs }: Layout, inputs: readonly Tensor[], numbers: readonly Operand[]): Tensor[] {
  const results: (readonly Tensor[])[] = [];
  for (const { operation, operands } of steps) {
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
  }
  return outputs.map(([step, result]) => at(at(results, step), result));
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

function at<Item>(items: readonly Item[], index: number): Item {
  const item = items[index];
  if (item === undefined) throw new RangeError(`there is no element ${String(index)} among ${String(items.length)}`);
  return item;
}

function stepOf(steps: ReadonlyMap<Operation, number>, operation: Operation): number {
  const step = steps.get(operation);
  if (step === undefined) throw new TypeError('an operand that is not computed before its operation');
  return step;
}
