/** What a training step moves between host and device, and where its results lie. */
import { DATA_TYPES, hasFunctions, type StockBinding, type TensorFlowBinding } from '../tensor/tensorflow/binding.ts';

export interface Traffic {
  /** Bytes. */
  uploaded: number;
  downloaded: number;
  /** Graphs that were called as functions, whose inputs and results stay where they are. */
  functionCalls: number;
  /** Graphs that were run as sessions, and the bytes that went into them and came out, all by way of the host. */
  sessionRuns: number;
  sessionBytes: number;
  /** How many floating-point results of functions lie on each device. */
  readonly results: Map<string, number>;
}

export interface WatchedBinding {
  readonly binding: TensorFlowBinding;
  /** What has been moved since it was asked for the last time. */
  readonly take: () => Traffic;
  /** TensorFlow's operations that have been executed, if only while a graph was made of them. */
  readonly operations: ReadonlySet<string>;
}

const ELEMENT_BYTES = { [DATA_TYPES.float32]: 4, [DATA_TYPES.float64]: 8, [DATA_TYPES.int32]: 4, [DATA_TYPES.bool]: 1 };

/** The same binding, with an eye on what passes through it. */
export function watched(binding: TensorFlowBinding): WatchedBinding {
  let traffic = none();
  const names = new Set<string>();
  const operations = new Set<string>();
  const bytes = new Map<number, number>();
  const adopt = (descriptions: ReturnType<StockBinding['executeOp']>): typeof descriptions => {
    for (const { id, shape, dtype } of descriptions) {
      bytes.set(id, shape.reduce((product, size) => product * size, ELEMENT_BYTES[dtype])); // prettier-ignore
    }
    return descriptions;
  };
  const stock: StockBinding = {
    createTensor: (shape, type, values) => {
      const id = binding.createTensor(shape, type, values);
      bytes.set(id, values.byteLength);
      traffic.uploaded += values.byteLength;
      return id;
    },
    deleteTensor: (id) => {
      bytes.delete(id);
      binding.deleteTensor(id);
    },
    tensorDataSync: (id) => {
      const values = binding.tensorDataSync(id);
      traffic.downloaded += values.byteLength;
      return values;
    },
    executeOp: (operation, attributes, inputs, outputs) => {
      const descriptions = adopt(binding.executeOp(operation, attributes, inputs, outputs));
      if (names.has(operation) && hasFunctions(binding)) {
        traffic.functionCalls++;
        for (const { id } of descriptions) {
          const device = binding.deviceOf(id).replace(/^.*device:/, '');
          traffic.results.set(device, (traffic.results.get(device) ?? 0) + 1);
        }
      } else operations.add(operation);
      return descriptions;
    },
    loadSavedModel: binding.loadSavedModel,
    deleteSavedModel: binding.deleteSavedModel,
    runSavedModel: (id, inputs, inputNames, outputNames) => {
      const descriptions = adopt(binding.runSavedModel(id, inputs, inputNames, outputNames));
      traffic.sessionRuns++;
      for (const tensor of [...inputs, ...descriptions.map((description) => description.id)]) {
        traffic.sessionBytes += bytes.get(tensor) ?? 0;
      }
      return descriptions;
    },
    isUsingGpuDevice: binding.isUsingGpuDevice,
    TF_Version: binding.TF_Version,
  };
  const take = (): Traffic => {
    const taken = traffic;
    traffic = none();
    return taken;
  };
  if (!hasFunctions(binding)) return { binding: stock, take, operations };
  const functions = {
    createFunction: (graph: Uint8Array, inputs: string, outputs: string) => {
      const name = binding.createFunction(graph, inputs, outputs);
      names.add(name);
      return name;
    },
    deleteFunction: (name: string) => {
      names.delete(name);
      binding.deleteFunction(name);
    },
    deviceOf: binding.deviceOf,
    hasGpuKernel: binding.hasGpuKernel,
    cudaVersions: binding.cudaVersions,
  };
  return { binding: { ...stock, ...functions }, take, operations };
}

function none(): Traffic {
  return { uploaded: 0, downloaded: 0, functionCalls: 0, sessionRuns: 0, sessionBytes: 0, results: new Map() };
}
