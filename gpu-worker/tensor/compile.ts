/**
 * Pure functions of tensors, compiled: the second call with inputs of the same form is traced, and from the third on one graph
 * computes what was one operation after the other.
 *
 * Only the tensors in the inputs vary between calls of one graph. Everything else in them, numbers above all, is part of the form:
 * a number that changes with every call belongs into a tensor, or the function stays as it is.
 */
import { tensorsIn, type Engine, type Program, type Tensor } from './engine.ts';
import { NotTraceable } from './not-traceable.ts';

export interface CompileOptions {
  /** Graphs kept, one per form of the inputs; the one unused for longest goes. */
  readonly capacity: number;
  /** Hears, once per form, why inputs of that form are computed operation by operation. */
  readonly report: (reason: string) => void;
}

/** A function as it was, computed by graphs where possible. */
export interface Compiled<Inputs, Outputs> {
  readonly call: (inputs: Inputs) => Outputs;
  /** Graphs that there are. */
  readonly graphs: number;
  /** Frees the graphs. */
  readonly dispose: () => void;
}

/** What is known of one form of the inputs. */
type Form<Outputs> =
  | { readonly kind: 'seen' }
  | { readonly kind: 'not traceable' }
  | { readonly kind: 'graph'; readonly program: Program; readonly rebuild: (outputs: readonly Tensor[]) => Outputs };

/**
 * @param compute pure: what it returns depends on its inputs alone. Of what it makes, only the tensors of its result stay alive
 */
export function compile<Inputs, Outputs>(
  engine: Engine,
  compute: (inputs: Inputs) => Outputs,
  { capacity, report }: CompileOptions,
): Compiled<Inputs, Outputs> {
  const forms = new Map<string, Form<Outputs>>();
  const { compiler } = engine;

  function call(inputs: Inputs): Outputs {
    const eagerly = (): Outputs => engine.scope(() => compute(inputs));
    // Within another computation that is being traced, its operations become part of that.
    if (compiler === null || compiler.isTracing) return eagerly();
    const tensors = [...tensorsIn(inputs, engine.isTensor)];
    const key = formOf(inputs, tensors);
    const form = forms.get(key);
    if (form === undefined) {
      remember(key, { kind: 'seen' });
      return eagerly();
    }
    remember(key, form);
    switch (form.kind) {
      case 'graph':
        return form.rebuild(form.program.run(tensors));
      case 'not traceable':
        return eagerly();
      case 'seen':
        try {
          const outputsOf = (result: Outputs): Tensor[] => [...tensorsIn(result, engine.isTensor)];
          const { result, program } = compiler.trace(tensors, () => compute(inputs), outputsOf);
          remember(key, { kind: 'graph', program, rebuild: rebuilder(result, outputsOf(result)) });
          return result;
        } catch (error) {
          if (!(error instanceof NotTraceable)) throw error;
          report(error.message);
          remember(key, { kind: 'not traceable' });
          return eagerly();
        }
    }
  }

  /** A function from new outputs to the result with these in the place of the old ones. */
  function rebuilder(result: Outputs, outputs: readonly Tensor[]): (outputs: readonly Tensor[]) => Outputs {
    const positions = new Map(outputs.map((tensor, index) => [tensor, index]));
    return (others) =>
      replaceTensors(result, engine.isTensor, (tensor) => {
        const other = others[positions.get(tensor) ?? -1];
        if (other === undefined) throw new Error('a graph with fewer outputs than its function');
        return other;
      }) as Outputs;
  }

  function remember(key: string, form: Form<Outputs>): void {
    forms.delete(key);
    forms.set(key, form);
    const [oldest] = forms;
    if (forms.size > capacity && oldest !== undefined) {
      forms.delete(oldest[0]);
      release(oldest[1]);
    }
  }

  return {
    call,
    get graphs() {
      return [...forms.values()].filter(({ kind }) => kind === 'graph').length;
    },
    dispose() {
      for (const form of forms.values()) release(form);
      forms.clear();
    },
  };
}

function release<Outputs>(form: Form<Outputs>): void {
  if (form.kind === 'graph') form.program.dispose();
}

/** The structure of a value, with the shapes of its tensors and everything else by value. */
function formOf(value: unknown, tensors: readonly Tensor[]): string {
  const positions = new Map<unknown, number>(tensors.map((tensor, index) => [tensor, index]));
  const describe = (part: unknown): string => {
    const position = positions.get(part);
    // Which of the tensors: a tensor that is there twice is one input.
    if (position !== undefined) return `#${String(position)}[${tensors[position]?.shape.join() ?? ''}]`;
    if (Array.isArray(part)) return `[${part.map(describe).join()}]`;
    if (part instanceof Map) return `Map(${describe([...part.entries()])})`;
    if (typeof part === 'object' && part !== null) {
      const entries = Object.entries(part).map(([name, child]) => `${JSON.stringify(name)}:${describe(child)}`);
      return `{${entries.join()}}`;
    }
    if (typeof part === 'string') return JSON.stringify(part);
    if (typeof part === 'number') return Object.is(part, -0) ? '-0' : String(part);
    if (typeof part === 'boolean' || part === null || part === undefined) return String(part);
    throw new TypeError(`the inputs of a compiled function are plain data, without a ${typeof part}`);
  };
  return describe(value);
}

/** A copy of plain data with other tensors. What holds none is shared. */
function replaceTensors(
  value: unknown,
  isTensor: (value: object) => value is Tensor,
  replace: (tensor: Tensor) => Tensor,
): unknown {
  const visit = (part: unknown): unknown => {
    if (typeof part !== 'object' || part === null || ArrayBuffer.isView(part)) return part;
    if (isTensor(part)) return replace(part);
    if (Array.isArray(part)) return part.map(visit);
    if (part instanceof Map) return new Map([...part].map(([name, child]) => [name, visit(child)]));
    return Object.fromEntries(Object.entries(part).map(([name, child]) => [name, visit(child)]));
  };
  return visit(value);
}
