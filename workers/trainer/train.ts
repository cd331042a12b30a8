/**
 * THE training loop. One turn is one optimizer step: batches → gradients → update → metrics → evaluation → checkpoint.
 * Everything is a function of the step number, so a loop started at step k continues the one that stopped there.
 */
import type { Model } from '../engine/models/index.ts';
import type { AdamW } from '../engine/optim/index.ts';
import type { JobData } from './dataset.ts';
import { measureAll, measureBatch } from './evaluation.ts';
import type { Failpoints } from './failpoints.ts';
import { type Measured, publicMetrics } from './measured.ts';
import type { StepDone } from './messages.ts';
import type { Objective } from './objective.ts';
import { endsEpoch, type TrainingPlan } from './plan.ts';
import { type LaunchedStep, launchStep } from './step.ts';
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
 * Trains from `state.step` to the plan's end; every step is reported and, where due, evaluated and saved. On a device
 * that works ahead a step is reported once the next one has been asked for, unless its numbers are needed before.
 * @returns 'stopped' when asked to, with the state saved. @throws LossDiverged before anything is written
 */
export async function train(run: TrainingRun): Promise<'finished' | 'stopped'> {
  const { model, data, objective, plan, state } = run;
  const { totalSteps } = plan;
  const { schedule: type, learningRate, warmupSteps } = plan;
  const finish = stepReporter(run);

  if (state.step === 0 && data.validation) {
    const fullValidation = await measureAll(objective, model, data.validation, plan, 0, run.turn);
    run.report({ step: 0, epoch: 0, trainedTokens: 0, train: null, validation: null, fullValidation });
  }
  let open: LaunchedStep | null = null;
  while (state.step < totalSteps) {
    const launched = launchStep(run, { type, learningRate, warmupSteps, totalSteps });
    if (open !== null) await finish(open);
    const { step } = launched;
    // Refused steps throw here: nothing of this one is written or counted before.
    if (!model.device.worksAhead) launched.read();
    state.step = step;
    state.trainedTokens += launched.tokens;
    run.failpoints.hit(`child.step.${step}`);
    const isEpochEnd = endsEpoch(plan, step);
    const isSaveStep = plan.saveSteps !== null && step % plan.saveSteps === 0;
    const mayStayOpen =
      model.device.worksAhead && !isEvaluated(run, step) && !isSaveStep && step < totalSteps;
    let metrics = mayStayOpen ? null : await finish(launched);
    const stop = await run.turn();
    const isLeaving = stop && step < totalSteps;
    const isSaving = isEpochEnd || isSaveStep || isLeaving || run.isSaveDue();
    open = metrics === null && !isSaving ? launched : null;
    if (isSaving) {
      metrics ??= await finish(launched);
      await run.save(isEpochEnd || (isLeaving && run.isPausing()) ? 'epoch' : 'state', metrics);
    }
    if (isLeaving) return 'stopped';
  }
  return 'finished';
}

/** Reads, evaluates where due and reports launched steps in their order; returns a step's metrics for a checkpoint. */
function stepReporter(run: TrainingRun): (launched: LaunchedStep) => Promise<Record<string, number>> {
  const { plan, state } = run;
  const pace = { startedAt: performance.now(), startStep: state.step };
  let lastReadAt = 0;
  let trainedTokens = state.trainedTokens;
  return async (launched) => {
    const { step, tokens, learningRate, startedAt } = launched;
    const { measured, gradNorm } = launched.read();
    // A step that was asked for while another ran began when that one ended.
    const trainSeconds = (performance.now() - Math.max(startedAt, lastReadAt)) / 1000;
    lastReadAt = performance.now();
    trainedTokens += tokens;
    const { validation, fullValidation } = await evaluateWhereDue(run, step);
    state.metrics.add(step, measured, validation);
    const secondsPerStep = (performance.now() - pace.startedAt) / 1000 / (step - pace.startStep);
    const etaSeconds = (plan.totalSteps - step) * secondsPerStep;
    run.report({
      step,
      epoch: step / plan.stepsPerEpoch,
      trainedTokens,
      train: { ...measured, tokensPerSecond: tokens / trainSeconds, learningRate, gradNorm, etaSeconds },
      validation,
      fullValidation,
    });
    return checkpointMetrics(step, measured, validation, fullValidation);
  };
}

/** Whether the validation file is looked at after this step. */
function isEvaluated({ data, plan }: TrainingRun, step: number): boolean {
  const isEvalStep = plan.evalSteps !== null && step % plan.evalSteps === 0;
  return endsEpoch(plan, step) || (data.validation !== null && isEvalStep);
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
