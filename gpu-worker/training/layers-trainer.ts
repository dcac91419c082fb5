/** `layers` mode: the client runs the model, and sends what the optimizer needs of each pass. */
import { replyForm, type LayersDefinition } from '../../shared/layers-definition.ts';
import { hasInverseFactors } from '../../shared/policy-encoding.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { inverseVersion } from '../optimizer/curvature/metric.ts';
import { INITIAL_STATE } from '../optimizer/state.ts';
import { assertFinite, uncheckedStep, type StepConfiguration } from '../optimizer/step.ts';
import { disposeReplaced, tensorsIn, type Engine } from '../tensor/engine.ts';
import { decodeStep, replyTensors } from './layers-codec.ts';
import { encodeReply } from './reply-tensors.ts';
import { saveOptimizer } from './saved-optimizer.ts';
import type { StepOutcome, Trainer } from './trainer.ts';
import { mean } from '../../shared/checked-tensors.ts';

/** @param initial INITIAL_STATE, or what an earlier trainer saved; from here on the trainer's own */
export function layersTrainer(engine: Engine, definition: LayersDefinition, initial = INITIAL_STATE): Trainer {
  const configuration = stepConfiguration(definition);
  let state = initial;

  function step(bytes: Uint8Array): StepOutcome {
    const decoded = decodeStep(bytes, definition, engine.precision, inverseVersions(definition, state.step - 1));
    const next = engine.scope(() => {
      const { finite, ...result } = uncheckedStep(engine, configuration, state, decoded.upload(engine));
      const tensors = replyTensors(engine, definition, result.reply, decoded.batch, {
        held: decoded.heldVersions,
        newest: inverseVersions(definition, state.step),
      });
      engine.evaluate([result.state, result.terminalWeights, tensors, finite]);
      assertFinite(engine, configuration.layers, finite);
      const metrics: StepMetrics = {
        step: state.step,
        batch: decoded.batch,
        loss: decoded.loss,
        lossAfter: null,
        learningRate: result.learningRate,
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

  return {
    step,
    save: () => {
      const { numbers, tensors } = saveOptimizer(engine, definition.layers, state);
      return { step: state.step, state: { mode: 'layers', optimizer: numbers }, tensors };
    },
    settle: () => undefined,
    model: null,
    close: () => {
      engine.dispose(tensorsIn(state, engine.isTensor));
    },
  };
}

/** Versions of the inverses that a step uses, per layer; 0 for a layer whose metric has no factors. */
function inverseVersions({ layers, optimizer: { metric } }: LayersDefinition, step: number): number[] {
  return layers.map((layer, t) =>
    metric.kind === 'kronecker' && hasInverseFactors(layer, metric) ? inverseVersion(metric, t === 0, step) : 0,
  );
}

/** A policy that is handed out always carries its Cholesky factor, whatever the rows. */
function stepConfiguration(definition: LayersDefinition): StepConfiguration {
  const { layers, optimizer } = definition;
  const reply = replyForm(definition);
  if (reply === 'update') return { layers, optimizer, reply };
  return { layers, optimizer: { ...optimizer, solver: { ...optimizer.solver, choleskyRows: Infinity } }, reply };
}
