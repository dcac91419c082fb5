/** Computations on TensorFlow as graphs: one call of a session in the place of one per operation. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { CompilationError, type Compile, type Program } from '../deferred/programs.ts';
import type { Tensor } from '../engine.ts';
import { GRAPH_TAG, graphDefinition, type GraphDefinition } from './graph-definition.ts';
import { Recording } from './recording.ts';
import { idOf, TensorFlowTensor } from './tensor.ts';
import type { TensorFlowTensors } from './tensors.ts';

/** How the engine's own tensors and those of the seam become each other. */
interface Seam {
  readonly own: (tensor: Tensor) => TensorFlowTensor;
  readonly made: (tensor: TensorFlowTensor) => Tensor;
}

/** Runs a computation once, operation by operation, and makes a graph of what it executed. */
export function graphCompiler(tensors: TensorFlowTensors, { own, made }: Seam): Compile {
  function program(recording: Recording, outputs: readonly TensorFlowTensor[]): Program {
    const { session, definition } = graph(recording, outputs);
    const [inputNames, outputNames] = [definition.inputs.join(), definition.outputs.join()];
    return {
      run(inputs) {
        const ids = inputs.map((tensor) => idOf(own(tensor)));
        const results = tensors.binding.runSavedModel(session, ids, inputNames, outputNames);
        return results.map((description) => made(tensors.adopt(description)));
      },
      dispose() {
        tensors.binding.deleteSavedModel(session);
      },
    };
  }

  /** The computation has been run by then: what goes wrong is the graph's fault. @throws CompilationError */
  function graph(
    recording: Recording,
    outputs: readonly TensorFlowTensor[],
  ): { session: number; definition: GraphDefinition } {
    try {
      const results = outputs.map((tensor) => recording.outputOf(tensor));
      const definition = graphDefinition(recording.inputs, results);
      return { session: load(definition.file), definition };
    } catch (cause) {
      throw new CompilationError(cause instanceof Error ? cause.message : String(cause), { cause });
    }
  }

  /** The binding takes graphs as files only. */
  function load(file: Uint8Array): number {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpnopt-graph-'));
    try {
      writeFileSync(path.join(folder, 'saved_model.pb'), file);
      return tensors.binding.loadSavedModel(folder, GRAPH_TAG);
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
