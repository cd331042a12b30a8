/**
 * One optimizer step as a request: gradients of its batches, then the update. On a device that works ahead its numbers
 * arrive while the next step runs; elsewhere they are there at once. Knows no checkpoints and no messages.
 */
import { batchesOf } from '../engine/data/batches.ts';
import { learningRateAt, type Schedule } from '../engine/optim/index.ts';
import { LossDiverged } from './failures.ts';
import type { Measured } from './measured.ts';
import { addSums, type Sums } from './objective.ts';
import type { TrainingRun } from './train.ts';

export interface LaunchedStep {
  /** 1-based. */
  step: number;
  tokens: number;
  learningRate: number;
  startedAt: number;
  /** Waits for the numbers where they have not arrived. @throws LossDiverged when the step was refused */
  read(): { measured: Measured; gradNorm: number };
}

/** Asks for step `state.step + 1`. @throws LossDiverged, before the update, where the loss is known by then */
export function launchStep(run: TrainingRun, schedule: Schedule): LaunchedStep {
  const { model, optimizer, data, objective, plan, state } = run;
  const { batchSize, maxTokensPerPack: maxTokens, seed, maxGradNorm } = plan;
  const startedAt = performance.now();
  const step = state.step + 1;
  const batches = batchesOf(data.training, { batchSize, maxTokens, seed, step: state.step });
  const total = batches.reduce((sum, batch) => sum + objective.weightOf(batch), 0);

  // Σ over micro-batches of Σ loss / total: the mean over the labelled tokens (or pairs) of the whole step.
  optimizer.zeroGrad();
  const pending = batches.map((batch, microBatch) => {
    const at = { total, seed, step: state.step, microBatch, recompute: run.recompute };
    const read = objective.accumulate(model, batch, at);
    run.alive();
    return read;
  });
  const measure = (): Measured => {
    const sums: Sums = {};
    for (const read of pending) addSums(sums, read());
    const measured = objective.measure(sums);
    if (!Number.isFinite(measured.loss))
      throw new LossDiverged(step, `the training loss is ${measured.loss}`);
    return measured;
  };
  // A loss that is not finite has gradients that are not: the update is then refused on the device itself.
  const known = model.device.worksAhead ? null : measure();
  const learningRate = learningRateAt(state.step, schedule);
  const update = optimizer.stepLater(learningRate, { maxGradNorm });
  return {
    ...{ step, learningRate, startedAt },
    tokens: batches.reduce((sum, batch) => sum + batch.ids.length, 0),
    read() {
      const measured = known ?? measure();
      const { gradNorm, applied } = update.read();
      if (!applied) throw new LossDiverged(step, `the gradient norm is ${gradNorm}`);
      return { measured, gradNorm };
    },
  };
}
