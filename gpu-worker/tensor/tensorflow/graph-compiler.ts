/**
 * Computations on TensorFlow as graphs: one native call in the place of one per operation.
 *
 * The binding that `npm run native` builds makes a function of a graph, whose inputs and results stay on the device. Those that npm
 * installs know sessions only, which take and give tensors on the host: on a CPU that is the same, on a GPU they cross the bus.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { CompilationError, type Compile, type Program } from '../deferred/programs.ts';
import type { Tensor } from '../engine.ts';
import { hasFunctions, type GraphFunctions, type TensorDescription } from './binding.ts';
import { GRAPH_TAG, graphDefinition, savedModel, type GraphDefinition } from './graph-definition.ts';
import { Recording } from './recording.ts';
import { idOf, TensorFlowTensor } from './tensor.ts';
import type { TensorFlowTensors } from './tensors.ts';

/** How the engine's own tensors and those of the seam become each other. */
interface Seam {
  readonly own: (tensor: Tensor) => TensorFlowTensor;
  readonly made: (tensor: TensorFlowTensor) => Tensor;
}

/** A graph that TensorFlow has taken. */
interface LoadedGraph {
  readonly run: (inputs: readonly number[]) => TensorDescription[];
  readonly dispose: () => void;
}

/** Runs a computation once, operation by operation, and makes a graph of what it executed. */
export function graphCompiler(tensors: TensorFlowTensors, { own, made }: Seam): Compile {
  const { binding } = tensors;

  function program(recording: Recording, outputs: readonly TensorFlowTensor[]): Program {
    const graph = load(recording, outputs);
    return {
      run: (inputs) => {
        const ids = inputs.map((tensor) => idOf(own(tensor)));
        return graph.run(ids).map((description) => made(tensors.adopt(description)));
      },
      dispose: graph.dispose,
    };
  }

  function asFunction(functions: GraphFunctions, { graph, inputs, outputs }: GraphDefinition): LoadedGraph {
    const name = functions.createFunction(graph, inputs.join(), outputs.join());
    return {
      run: (ids) => binding.executeOp(name, [], ids, outputs.length),
      dispose: () => {
        functions.deleteFunction(name);
      },
    };
  }

  /** The computation has been run by then: what goes wrong is the graph's fault. @throws CompilationError */
  function load(recording: Recording, outputs: readonly TensorFlowTensor[]): LoadedGraph {
    try {
      const results = outputs.map((tensor) => recording.outputOf(tensor));
      const definition = graphDefinition(recording.inputs, results);
      return hasFunctions(binding) ? asFunction(binding, definition) : asSession(definition);
    } catch (cause) {
      throw new CompilationError(cause instanceof Error ? cause.message : String(cause), { cause });
    }
  }

  function asSession(definition: GraphDefinition): LoadedGraph {
    const session = loadFile(savedModel(definition));
    const [inputNames, outputNames] = [definition.inputs.join(), definition.outputs.join()];
    return {
      run: (ids) => binding.runSavedModel(session, ids, inputNames, outputNames),
      dispose: () => {
        binding.deleteSavedModel(session);
      },
    };
  }

  /** The binding takes the graphs of sessions as files only. */
  function loadFile(file: Uint8Array): number {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpnopt-graph-'));
    try {
      writeFileSync(path.join(folder, 'saved_model.pb'), file);
      return binding.loadSavedModel(folder, GRAPH_TAG);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }

  return (computation, inputs) => {
    // An input each, even where two of them are one tensor at the moment.
    const distinct = inputs.map((tensor) => {
      const { shape, type } = own(tensor);
      return new TensorFlowTensor({ shape, dtype: type, id: idOf(own(tensor)) });
    });
    const recording = new Recording(distinct);
    tensors.recording = recording;
    try {
      // What it computes on the way is not needed, only what it executes.
      return tensors.scope(
        () => program(recording, computation(distinct.map(made)).map(own)),
        () => [],
      );
    } finally {
      tensors.recording = null;
    }
  };
}
