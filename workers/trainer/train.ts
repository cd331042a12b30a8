/**
 * THE training loop. One turn is one optimizer step: batches → gradients → update → metrics → evaluation → checkpoint.
 * Everything is a function of the step number, so a loop started at step k continues the one that stopped there.
 */
import { batchesOf } from '../engine/data/batches.ts';
import type { Model } from '../engine/models/index.ts';
import { type AdamW, learningRateAt } from '../engine/optim/index.ts';
import type { JobData } from './dataset.ts';
import { measureAll, measureBatch } from './evaluation.ts';
import type { Failpoints } from './failpoints.ts';
import { LossDiverged } from './failures.ts';
import { type Measured, publicMetrics } from './measured.ts';
import type { StepDone } from './messages.ts';
import { addSums, type Objective, type Sums } from './objective.ts';
import { endsEpoch, type TrainingPlan } from './plan.ts';
import type { StepMetrics } from './step-metrics.ts';

/** What a checkpoint must hold besides weights and moments. */
export interface LoopState {
  /** Completed optimizer steps. */
  step: number;
  /** Tokens the model has read since the job began. */
  trainedTokens: number;
  metrics: StepMetrics;
}

export interface TrainingRun {
  model: Model;
  optimizer: AdamW;
  data: JobData;
  objective: Objective;
  plan: TrainingPlan;
  state: LoopState;
  /** Compute activations again in the backward: less memory, same numbers. */
  recompute: boolean;
  report: (done: Omit<StepDone, 'type' | 'totalSteps'>) => void;
  save: (kind: 'epoch' | 'state', metrics: Record<string, number>) => Promise<void>;
  /** True when nothing was saved for so long that a crash would cost too much. */
  isSaveDue: () => boolean;
  /** Lets messages in and out; true when the loop shall stop here. */
  turn: () => Promise<boolean>;
  /** Whether it stops for a pause: what is saved then is a checkpoint for the user. */
  isPausing: () => boolean;
  /** Shows life inside a step, which may be long. */
  alive: () => void;
  failpoints: Failpoints;
}

/**
 * Trains from `state.step` to the plan's end; every step is reported and, where due, evaluated and saved.
 * @returns 'stopped' when asked to, with the state saved. @throws LossDiverged before anything is written
 */
export async function train(run: TrainingRun): Promise<'finished' | 'stopped'> {
  const { model, optimizer, data, objective, plan, state } = run;
  const { batchSize, maxTokensPerPack: maxTokens, seed, totalSteps, maxGradNorm } = plan;
  const schedule = {
    type: plan.schedule,
    learningRate: plan.learningRate,
    warmupSteps: plan.warmupSteps,
    totalSteps,
  };
  const pace = { startedAt: performance.now(), startStep: state.step };

  if (state.step === 0 && data.validation) {
    const fullValidation = await measureAll(objective, model, data.validation, plan, 0, run.turn);
    run.report({ step: 0, epoch: 0, trainedTokens: 0, train: null, validation: null, fullValidation });
  }
  while (state.step < totalSteps) {
    const startedAt = performance.now();
    const batches = batchesOf(data.training, { batchSize, maxTokens, seed, step: state.step });
    const total = batches.reduce((sum, batch) => sum + objective.weightOf(batch), 0);
    const tokens = batches.reduce((sum, batch) => sum + batch.ids.length, 0);

    // Σ over micro-batches of Σ loss / total: the mean over the labelled tokens (or pairs) of the whole step.
    optimizer.zeroGrad();
    const sums: Sums = {};
    for (const [microBatch, batch] of batches.entries()) {
      const at = { total, seed, step: state.step, microBatch, recompute: run.recompute };
      addSums(sums, objective.accumulate(model, batch, at));
      run.alive();
    }
    const step = state.step + 1;
    const measured = objective.measure(sums);
    const { loss } = measured;
    if (!Number.isFinite(loss)) throw new LossDiverged(step, `the training loss is ${loss}`);
    const learningRate = learningRateAt(state.step, schedule);
    const { gradNorm, applied } = optimizer.step(learningRate, { maxGradNorm });
    if (!applied) throw new LossDiverged(step, `the gradient norm is ${gradNorm}`);
    state.step = step;
    state.trainedTokens += tokens;
    run.failpoints.hit(`child.step.${step}`);
    const trainSeconds = (performance.now() - startedAt) / 1000;

    const { validation, fullValidation } = await evaluateWhereDue(run, step);
    state.metrics.add(step, measured, validation);
    const secondsPerStep = (performance.now() - pace.startedAt) / 1000 / (step - pace.startStep);
    const etaSeconds = (totalSteps - step) * secondsPerStep;
    run.report({
      step,
      epoch: step / plan.stepsPerEpoch,
      trainedTokens: state.trainedTokens,
      train: { ...measured, tokensPerSecond: tokens / trainSeconds, learningRate, gradNorm, etaSeconds },
      validation,
      fullValidation,
    });
    const isEpochEnd = endsEpoch(plan, step);
    const isSaveStep = plan.saveSteps !== null && step % plan.saveSteps === 0;
    const metrics = checkpointMetrics(step, measured, validation, fullValidation);
    const stop = await run.turn();
    const isLeaving = stop && step < totalSteps;
    if (isEpochEnd || isSaveStep || isLeaving || run.isSaveDue())
      await run.save(isEpochEnd || (isLeaving && run.isPausing()) ? 'epoch' : 'state', metrics);
    if (isLeaving) return 'stopped';
  }
  return 'finished';
}

/** A validation batch every eval_steps and at epoch ends, the whole file at epoch ends. */
async function evaluateWhereDue(
  { objective, model, data, plan, turn }: TrainingRun,
  step: number,
): Promise<{ validation: Measured | null; fullValidation: Measured | null }> {
  const isEpochEnd = endsEpoch(plan, step);
  const isEvalStep = plan.evalSteps !== null && step % plan.evalSteps === 0;
  if (!data.validation || !(isEpochEnd || isEvalStep)) return { validation: null, fullValidation: null };
  return {
    validation: measureBatch(objective, model, data.validation, plan, step),
    fullValidation: isEpochEnd ? await measureAll(objective, model, data.validation, plan, step, turn) : null,
  };
}

/** Under OpenAI's names and the method's own; what was not measured is left out. */
function checkpointMetrics(
  step: number,
  train: Measured,
  validation: Measured | null,
  fullValidation: Measured | null,
): Record<string, number> {
  return {
    step,
    ...publicMetrics('train', train),
    ...(validation && publicMetrics('valid', validation)),
    ...(fullValidation && publicMetrics('full_valid', fullValidation)),
  };
}
