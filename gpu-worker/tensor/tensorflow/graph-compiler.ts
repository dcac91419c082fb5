/** Traces computations on TensorFlow and runs them as graphs: one call of a session in the place of one per operation. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Compiler, Program, Tensor } from '../engine.ts';
import { NotTraceable } from '../not-traceable.ts';
import { GRAPH_TAG, graphDefinition } from './graph-definition.ts';
import { Recording } from './recording.ts';
import { idOf, type TensorFlowTensor } from './tensor.ts';
import type { TensorFlowTensors } from './tensors.ts';

/** How the engine's own tensors and those of the seam become each other. */
interface Seam {
  readonly own: (tensor: Tensor) => TensorFlowTensor;
  readonly made: (tensor: TensorFlowTensor) => Tensor;
}

export function createGraphCompiler(tensors: TensorFlowTensors, { own, made }: Seam): Compiler {
  function program(recording: Recording, outputs: readonly TensorFlowTensor[]): Program {
    const recorded = outputs.map((tensor) => recording.outputOf(tensor));
    const given = recorded.map(({ node }) => recording.inputs.indexOf(node));
    const computed = recorded.filter((_, index) => given[index] === -1);
    const definition = graphDefinition(recording.inputs, computed);
    const session = load(definition.file);
    const [inputNames, outputNames] = [definition.inputs.join(), definition.outputs.join()];
    return {
      run(inputs) {
        if (inputs.length !== recording.inputs.length) throw new RangeError('a graph called with other inputs');
        const ids = inputs.map((tensor) => idOf(own(tensor)));
        const results =
          computed.length === 0 ? [] : tensors.binding.runSavedModel(session, ids, inputNames, outputNames);
        const fresh = results.map((description) => made(tensors.adopt(description))).values();
        return given.map((input) => {
          const tensor = input === -1 ? fresh.next().value : inputs[input];
          if (tensor === undefined) throw new Error('a graph with fewer outputs than were asked for');
          return tensor;
        });
      },
      dispose() {
        tensors.binding.deleteSavedModel(session);
      },
    };
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

  return {
    trace(inputs, compute, outputsOf) {
      if (tensors.recording !== null) throw new NotTraceable('another computation is being traced');
      const recording = new Recording(inputs.map(own));
      return tensors.scope(
        () => {
          tensors.recording = recording;
          try {
            const result = compute();
            return { result, program: program(recording, outputsOf(result).map(own)) };
          } finally {
            tensors.recording = null;
          }
        },
        ({ result }) => outputsOf(result).map(own),
      );
    },
    get isTracing() {
      return tensors.recording !== null;
    },
  };
}
