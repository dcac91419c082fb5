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

/** What the binding that `npm run native` builds has beyond those of npm: see deploy/native/binding.cc. */
export interface GraphFunctions {
  /**
   * Makes an operation of a GraphDef; `executeOp` takes its name. Its inputs and results are results of the graph's nodes, named
   * "node:index" and joined by commas.
   */
  readonly createFunction: (graph: Uint8Array, inputs: string, outputs: string) => string;
  readonly deleteFunction: (name: string) => void;
  /** Where a tensor lies: "/job:localhost/replica:0/task:0/device:CPU:0". */
  readonly deviceOf: (id: number) => string;
  /** Whether TensorFlow was built to compute an operation on a GPU. */
  readonly hasGpuKernel: (operation: string) => boolean;
  /** As CUDA counts: 12090 for 12.9, cuDNN 92800 for 9.28.0; 0 for a driver that is not there. null without CUDA. */
  readonly cudaVersions: () => { readonly driver: number; readonly runtime: number; readonly cudnn: number } | null;
}

/** The functions of the binding of tfjs-node that are used here. Tensors and saved models are numbers that it hands out; all may throw. */
export interface StockBinding {
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

export type BindingWithFunctions = StockBinding & GraphFunctions;
export type TensorFlowBinding = StockBinding | BindingWithFunctions;

export function hasFunctions(binding: TensorFlowBinding): binding is BindingWithFunctions {
  return 'createFunction' in binding;
}

const PACKAGES = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'];
const ROOT = new URL('../../../', import.meta.url);

/** The file of the binding: what `npm run native` assembled, which can do more, else an installed package's; null without either. */
export function findBinding(): string | null {
  const assembled = fileURLToPath(new URL(`${NATIVE_ENGINE_FOLDER}/${NATIVE_ENGINE_BINDING}`, ROOT));
  if (existsSync(assembled)) return assembled;
  for (const name of PACKAGES) {
    const installed = bindingOfPackage(name);
    if (installed !== null) return installed;
  }
  return null;
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

/** What TensorFlow and CUDA are told unless the environment says otherwise. They read it once, when they start. */
const SETTINGS = {
  // The log would mention every matrix that is not positive definite.
  TF_CPP_MIN_LOG_LEVEL: '2',
  // oneDNN announces itself on the standard error, and was not faster for what is computed here.
  TF_ENABLE_ONEDNN_OPTS: '0',
  // Equal computations give equal results to the last bit: a step that is taken again after a failure is the same step.
  TF_DETERMINISTIC_OPS: '1',
  // On GPUs that have it, TensorFloat-32 would leave a product's operands ten bits of their significand.
  NVIDIA_TF32_OVERRIDE: '0',
  // Of the GPU's memory TensorFlow takes what it needs; otherwise all of it, at once.
  TF_FORCE_GPU_ALLOW_GROWTH: 'true',
};

/** Loads the binding, and TensorFlow with it. @throws Error with the loader's words if its libraries do not load here */
export function loadBinding(file: string): TensorFlowBinding {
  for (const [name, value] of Object.entries(SETTINGS)) process.env[name] ??= value;
  return createRequire(import.meta.url)(file) as TensorFlowBinding;
}
