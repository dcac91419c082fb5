/** `layers` mode: the client runs the model, and sends what the optimizer needs of each pass. */
import { at } from '../../shared/at.ts';
import { replyForm, type LayersDefinition } from '../../shared/layers-definition.ts';
import { hasInverseFactors } from '../../shared/policy-encoding.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { inverseVersion } from '../optimizer/curvature/metric.ts';
import { INITIAL_STATE, type OptimizerState } from '../optimizer/state.ts';
import {
  assertFinite,
  finiteLayers,
  settleRefreshes,
  uncheckedStep,
  type StepConfiguration,
} from '../optimizer/step.ts';
import { disposeReplaced, tensorsIn, type Engine } from '../tensor/engine.ts';
import { readScalar } from '../tensor/scalar.ts';
import { decodeStep, replyTensors } from './layers-codec.ts';
import { encodeReply } from './reply-tensors.ts';
import { saveOptimizer } from './saved-optimizer.ts';
import { otherMode, type StepOutcome, type Trainer } from './trainer.ts';
import { mean } from '../../shared/checked-tensors.ts';

/** @param initial INITIAL_STATE, or what an earlier trainer saved; from here on the trainer's own */
export function layersTrainer(engine: Engine, definition: LayersDefinition, initial = INITIAL_STATE): Trainer {
  const configuration = stepConfiguration(definition);
  let state = initial;

  function step(bytes: Uint8Array): StepOutcome {
    const decoded = decodeStep(bytes, definition, engine.precision, inverseVersions(definition, state));
    const next = engine.scope(() => {
      const unchecked = uncheckedStep(engine, configuration, state, decoded.upload(engine));
      const { suspects, ...result } = unchecked;
      const tensors = replyTensors(engine, definition, result.reply, decoded.batch, {
        held: decoded.heldVersions,
        newest: inverseVersions(definition, result.state),
      });
      const finite = finiteLayers(engine, suspects);
      engine.evaluate([result.state, result.learningRate, result.terminalWeights, tensors, finite]);
      assertFinite(engine, configuration.layers, finite, unchecked);
      const metrics: StepMetrics = {
        step: state.step,
        batch: decoded.batch,
        loss: decoded.loss,
        lossAfter: null,
        learningRate: readScalar(engine, result.learningRate),
        terminalWeight: mean(engine.read(result.terminalWeights)),
        refreshed: result.refreshed,
        failedFactorizations: result.state.failedFactorizations,
      };
      return { state: result.state, metrics, body: encodeReply(engine, tensors, metrics, definition.transport.reply) };
    });
    disposeReplaced(engine, state, next.state);
    state = next.state;
    return { metrics: next.metrics, answer: { contentType: SAFETENSORS_CONTENT_TYPE, body: next.body } };
  }

  function settle(): void {
    const next = settleRefreshes(engine, definition.optimizer, state);
    disposeReplaced(engine, state, next);
    state = next;
  }

  return {
    step,
    save: () => {
      settle();
      const { numbers, tensors } = saveOptimizer(engine, definition.layers, state);
      return { step: state.step, state: { mode: 'layers', optimizer: numbers }, tensors };
    },
    settle,
    redefined: (next) => {
      if (next.mode !== 'layers') throw otherMode(definition.mode, next.mode);
      settle();
      return layersTrainer(engine, next, state);
    },
    model: null,
    close: () => {
      engine.dispose(tensorsIn(state, engine.isTensor));
    },
  };
}

/** Versions of the inverses that the last step used, per layer; 0 for a layer whose metric has no factors. */
function inverseVersions({ layers, optimizer }: LayersDefinition, { metrics }: OptimizerState): number[] {
  return layers.map((layer, t) =>
    metrics !== null && hasInverseFactors(layer, optimizer.metric) ? inverseVersion(at(metrics, t)) : 0,
  );
}

/** A policy that is handed out always carries its Cholesky factor, whatever the rows. */
function stepConfiguration(definition: LayersDefinition): StepConfiguration {
  const { layers, optimizer } = definition;
  const reply = replyForm(definition);
  if (reply === 'update') return { layers, optimizer, reply };
  return { layers, optimizer: { ...optimizer, solver: { ...optimizer.solver, choleskyRows: Infinity } }, reply };
}
