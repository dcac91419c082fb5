/**
 * TensorFlow's C library through the N-API binding of tfjs-node, called directly. The layer of TensorFlow.js above it knows
 * neither float64 nor graphs, and costs as much per operation as the operation.
 */
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { NATIVE_ENGINE_BINDING, NATIVE_ENGINE_FOLDER } from '../../../shared/native-engine.ts';

/** TF_DataType of the C interface. */
export const DATA_TYPES = { float32: 1, float64: 2, int32: 3, bool: 10 } as const;
export type DataType = (typeof DATA_TYPES)[keyof typeof DATA_TYPES];

/** TF_AttrType of the C interface. */
export const ATTRIBUTE_KINDS = { text: 0, integer: 1, boolean: 3, type: 4 } as const;

/** An attribute of an operation, in the form the binding takes. */
export type Attribute =
  | { readonly name: string; readonly type: typeof ATTRIBUTE_KINDS.text; readonly value: string }
  | { readonly name: string; readonly type: typeof ATTRIBUTE_KINDS.integer; readonly value: number | readonly number[] }
  | { readonly name: string; readonly type: typeof ATTRIBUTE_KINDS.boolean; readonly value: boolean }
  | { readonly name: string; readonly type: typeof ATTRIBUTE_KINDS.type; readonly value: DataType };

/** What the binding says of a tensor that an operation made. */
export interface TensorDescription {
  readonly id: number;
  readonly shape: readonly number[];
  readonly dtype: DataType;
}

/** The binding's functions that are used here. Tensors and saved models are numbers that it hands out; all may throw. */
export interface TensorFlowBinding {
  /** Shares the array's memory until the tensor is deleted. */
  readonly createTensor: (shape: readonly number[], type: DataType, values: Float32Array | Int32Array) => number;
  readonly deleteTensor: (id: number) => void;
  /** A copy; float32, int32 and bool only. */
  readonly tensorDataSync: (id: number) => Float32Array<ArrayBuffer> | Int32Array | Uint8Array;
  readonly executeOp: (
    operation: string,
    attributes: readonly Attribute[],
    inputs: readonly number[],
    outputs: number,
  ) => TensorDescription[];
  readonly loadSavedModel: (folder: string, tags: string) => number;
  readonly deleteSavedModel: (id: number) => void;
  /** Names are joined by commas. */
  readonly runSavedModel: (
    id: number,
    inputs: readonly number[],
    inputNames: string,
    outputNames: string,
  ) => TensorDescription[];
  readonly isUsingGpuDevice: () => boolean;
  readonly TF_Version: string;
}

const PACKAGES = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'];
const ROOT = new URL('../../../', import.meta.url);

/** The file of the binding: of an installed package, else what `npm run native` assembled; null if there is neither. */
export function findBinding(): string | null {
  for (const name of PACKAGES) {
    const installed = bindingOfPackage(name);
    if (installed !== null) return installed;
  }
  const assembled = fileURLToPath(new URL(`${NATIVE_ENGINE_FOLDER}/${NATIVE_ENGINE_BINDING}`, ROOT));
  return existsSync(assembled) ? assembled : null;
}

/** Null too where the package is there but its installation could not bring the binding. */
function bindingOfPackage(name: string): string | null {
  const folder = fileURLToPath(new URL(`node_modules/${name}/lib`, ROOT));
  if (!existsSync(folder)) return null;
  const files = readdirSync(folder)
    .filter((entry) => entry.startsWith('napi-v'))
    .map((entry) => path.join(folder, entry, NATIVE_ENGINE_BINDING))
    .filter((file) => existsSync(file));
  return files.toSorted().at(-1) ?? null;
}

/** Loads the binding, and TensorFlow with it. @throws Error with the loader's words if its libraries do not load here */
export function loadBinding(file: string): TensorFlowBinding {
  // Both are read once, when TensorFlow starts. Its log would otherwise mention every matrix that is not positive definite; and
  // oneDNN, which announces itself on the standard error, was not faster for what is computed here.
  process.env['TF_CPP_MIN_LOG_LEVEL'] ??= '2';
  process.env['TF_ENABLE_ONEDNN_OPTS'] ??= '0';
  return createRequire(import.meta.url)(file) as TensorFlowBinding;
}
