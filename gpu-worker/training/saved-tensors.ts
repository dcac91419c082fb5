/** The tensors of a checkpoint on their way back to the device: each is asked for once, by name and shape. */
import { ProblemError } from '../../shared/errors.ts';
import { formatShape } from '../../shared/safetensors.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import type { CheckedTensor } from '../../shared/checked-tensors.ts';

const REMEDY = 'Import the file as it was downloaded.';

/** What the last step's model predicted, a scalar; where the Levenberg–Marquardt rule needs it. */
export const PREDICTED_CHANGE = 'optimizer.predicted_change';

/** The problem of a state that does not belong to its definition. */
export function contradiction(what: string): ProblemError {
  return new ProblemError('invalid_checkpoint', {
    param: '__metadata__.manifest',
    detail: `The manifest contradicts its own definition: ${what}.`,
    remedy: REMEDY,
  });
}

/** Sizes of a tensor's axes; null for one that may have any size. */
type ExpectedShape = readonly (number | null)[];

export class SavedTensors {
  readonly #engine: Engine;
  readonly #left: Map<string, CheckedTensor>;

  constructor(engine: Engine, tensors: ReadonlyMap<string, CheckedTensor>) {
    this.#engine = engine;
    this.#left = new Map(tensors);
  }

  /** Uploads a tensor. @throws ProblemError `missing_tensor`, `shape_mismatch` */
  take(name: string, expected: ExpectedShape): Tensor {
    const saved = this.#left.get(name);
    if (saved === undefined) {
      const detail = `The checkpoint lacks ${name}, which its manifest announces.`;
      throw new ProblemError('missing_tensor', { param: name, detail, remedy: REMEDY });
    }
    const { shape } = saved.entry;
    const fits =
      shape.length === expected.length && expected.every((size, axis) => size === null || size === shape[axis]);
    if (!fits) {
      const shown = formatShape(expected.map((size) => size ?? 'any'));
      const detail = `${name} has shape ${formatShape(shape)}; by the checkpoint’s definition it is ${shown}.`;
      throw new ProblemError('shape_mismatch', { param: name, detail, remedy: REMEDY });
    }
    this.#left.delete(name);
    return this.#engine.tensor(saved.values, shape);
  }

  /** Uploads a number of the manifest; null stays null. */
  scalar(value: number | null): Tensor | null {
    return value === null ? null : this.#engine.tensor([value], []);
  }

  /** @throws ProblemError `unknown_tensor` if a tensor has not been asked for */
  assertAllTaken(): void {
    const [name] = this.#left.keys();
    if (name === undefined) return;
    const detail = `The checkpoint has ${name}, which its manifest does not announce.`;
    throw new ProblemError('unknown_tensor', { param: name, detail, remedy: REMEDY });
  }
}
