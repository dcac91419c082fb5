/** Hosted mode: the worker holds model and weights, and runs every pass itself. */
import { ProblemError } from '../../shared/errors.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import { HOSTED_TENSOR } from '../../shared/hosted-tensors.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { settleRefreshes } from '../optimizer/step.ts';
import { allFinite, disposeReplaced, tensorsIn, type Engine } from '../tensor/engine.ts';
import {
  checkHostedChunk,
  decodeHostedStep,
  decodePrediction,
  encodePrediction,
  encodeWeights,
} from './hosted-codec.ts';
import { evaluate, hostedConfiguration, hostedStep, initialHostedState, type HostedState } from './hosted-step.ts';
import { saveHosted } from './saved-hosted.ts';
import { otherMode, type Answer, type StepOutcome, type Trainer } from './trainer.ts';
import { mean } from '../../shared/checked-tensors.ts';

/** @param initial null for the initial weights; else what an earlier trainer saved, from here on the trainer's own */
export function hostedTrainer(
  engine: Engine,
  definition: HostedDefinition,
  initial: HostedState | null = null,
): Trainer {
  const configuration = hostedConfiguration(definition);
  let state = initial ?? initialHostedState(engine, configuration);

  function step(bytes: Uint8Array): StepOutcome {
    const { batch, upload, truth } = decodeHostedStep(bytes, definition, engine.precision);
    const next = engine.scope(() => {
      const result = hostedStep(engine, configuration, state, { input: upload(engine), truth });
      const metrics: StepMetrics = {
        step: state.optimizer.step,
        batch,
        loss: result.lossBefore,
        lossAfter: result.lossAfter,
        learningRate: result.learningRate,
        terminalWeight: mean(engine.read(result.terminalWeights)),
        refreshed: result.refreshed,
        failedFactorizations: result.state.optimizer.failedFactorizations,
      };
      return { state: result.state, metrics };
    });
    disposeReplaced(engine, state, next.state);
    state = next.state;
    return { metrics: next.metrics, answer: jsonAnswer(next.metrics) };
  }

  function predict(bytes: Uint8Array): Answer {
    const { upload, truth } = decodePrediction(bytes, definition, engine.precision);
    const body = engine.scope(() => {
      const { outputs, loss } = evaluate(engine, configuration, state, upload(engine), truth);
      if (!allFinite(engine, [outputs]) || !Number.isFinite(loss ?? 0)) throw overflow(engine.precision);
      return encodePrediction(engine, outputs, loss, definition.transport.reply);
    });
    return { contentType: SAFETENSORS_CONTENT_TYPE, body };
  }

  function settle(): void {
    const next = { ...state, optimizer: settleRefreshes(engine, definition.optimizer, state.optimizer) };
    disposeReplaced(engine, state, next);
    state = next;
  }

  return {
    step,
    save: () => {
      settle();
      return saveHosted(engine, configuration.program, state);
    },
    settle,
    redefined: (next) => {
      if (next.mode !== 'hosted') throw otherMode(definition.mode, next.mode);
      settle();
      return hostedTrainer(engine, next, state);
    },
    model: {
      predict,
      checkChunk: (body) => {
        checkHostedChunk(body, definition, engine.precision);
      },
      weights: () => ({
        contentType: SAFETENSORS_CONTENT_TYPE,
        body: encodeWeights(engine, definition, configuration.program, state),
      }),
    },
    close: () => {
      engine.dispose(tensorsIn(state, engine.isTensor));
    },
  };
}

/** Infinity and NaN are no prediction, and have no place in an answer. */
function overflow(precision: Engine['precision']): ProblemError {
  return new ProblemError('numerical_failure', {
    param: HOSTED_TENSOR.samples,
    detail: `What the model answers, or its loss, overflows ${precision}.`,
    remedy: `Check the scale of ${HOSTED_TENSOR.samples} and ${HOSTED_TENSOR.truth}.`,
  });
}

function jsonAnswer(document: object): Answer {
  return { contentType: 'application/json', body: new TextEncoder().encode(JSON.stringify(document)) };
}
