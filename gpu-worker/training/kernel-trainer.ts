/**
 * `kernel` mode: the client sends tangent kernels, and factor statistics where the service keeps its Kronecker factors.
 *
 * A refresh of the inverses that becomes due with step k is computed after the reply to step k, and comes with the reply to step
 * k + 1: always there and never earlier, so that a run is the same however long it takes. The first one of all is part of its step.
 */
import { at } from '../../shared/at.ts';
import { kernelReplyForm, type KernelDefinition } from '../../shared/kernel-definition.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import {
  assertSolvable,
  initialKernelState,
  kernelStep,
  refreshFactors,
  type KernelConfiguration,
  type KernelState,
} from '../optimizer/kernel-step.ts';
import { hasFiniteLeverage, leverageOverflow } from '../optimizer/update/choose-learning-rate.ts';
import { disposeReplaced, tensorsIn, type Engine } from '../tensor/engine.ts';
import { readScalar } from '../tensor/scalar.ts';
import { decodeKernels, kernelReplyTensors } from './kernel-codec.ts';
import { encodeReply } from './reply-tensors.ts';
import { saveKernel } from './saved-kernel.ts';
import { otherMode, type StepOutcome, type Trainer } from './trainer.ts';
import { mean } from '../../shared/checked-tensors.ts';

/** @param initial null to start from nothing; else what an earlier trainer saved, from here on the trainer's own */
export function kernelTrainer(
  engine: Engine,
  definition: KernelDefinition,
  initial: KernelState | null = null,
): Trainer {
  const { layers, optimizer } = definition;
  const configuration: KernelConfiguration = { layers, optimizer, reply: kernelReplyForm(definition) };
  let state = initial ?? initialKernelState(layers);

  function replaceState(next: KernelState): void {
    disposeReplaced(engine, state, next);
    state = next;
  }

  function refreshed(before: KernelState): KernelState {
    const { metric } = optimizer;
    return before.isRefreshDue && metric.kind === 'kronecker' ? refreshFactors(engine, layers, metric, before) : before;
  }

  function settle(): void {
    replaceState(refreshed(state));
  }

  function step(bytes: Uint8Array): StepOutcome {
    // Done already, unless the state has just been restored.
    settle();
    const decoded = decodeKernels(bytes, definition, state, engine.precision);
    const next = engine.scope(() => {
      const result = kernelStep(engine, configuration, state, decoded.upload(engine));
      engine.evaluate(result);
      assertSolvable(engine, result.finite, (t) => {
        const { name } = at(layers, t);
        return {
          param: optimizer.batchCoupling === 'diagonal' ? TENSOR.gramDiagonal(name) : TENSOR.gram(name),
          stage: `layer ${name}`,
        };
      });
      if (!hasFiniteLeverage(engine, result.state)) throw leverageOverflow(engine);
      const isFirstRefresh =
        result.state.isRefreshDue && result.state.factors.every((each) => each === null || each.version === 0);
      const nextState = isFirstRefresh ? refreshed(result.state) : result.state;
      const metrics: StepMetrics = {
        step: state.step,
        batch: decoded.batch,
        loss: decoded.loss,
        lossAfter: null,
        learningRate: readScalar(engine, result.learningRate),
        terminalWeight: mean(engine.read(result.terminalWeights)),
        refreshed: result.state.isRefreshDue,
        failedFactorizations: nextState.failedFactorizations,
      };
      const tensors = kernelReplyTensors(engine, definition, { ...result, state: nextState }, decoded.heldVersions);
      return { state: nextState, metrics, body: encodeReply(engine, tensors, metrics, 'full') };
    });
    replaceState(next.state);
    return { metrics: next.metrics, answer: { contentType: SAFETENSORS_CONTENT_TYPE, body: next.body } };
  }

  return {
    step,
    save: () => {
      settle();
      return saveKernel(engine, layers, state);
    },
    settle,
    redefined: (next) => {
      if (next.mode !== 'kernel') throw otherMode(definition.mode, next.mode);
      settle();
      return kernelTrainer(engine, next, state);
    },
    model: null,
    close: () => {
      engine.dispose(tensorsIn(state, engine.isTensor));
    },
  };
}
