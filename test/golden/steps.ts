// The training run that make_golden.py recorded, on our engine: two micro-batches a step, linear schedule with warmup,
// clip, decoupled decay. Trains whatever is trainable in the model it is given.
import { accumulateGradients } from '../../workers/engine/losses/supervised.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { AdamW } from '../../workers/engine/optim/adamw.ts';
import { learningRateAt } from '../../workers/engine/optim/schedule.ts';
import { labelledTokens, pack, type Reference, type StepLog } from './read.ts';

/** One log entry per step: the loss over the step's labelled tokens before the update, the rate, the norm before clip. */
export function trainRecordedSteps(
  model: Model,
  reference: Reference,
  learningRate: number,
  totalSteps: number,
): StepLog[] {
  const { micro_batches: pool, optimizer: o } = reference;
  const optimizer = new AdamW(model.trainableParameters(), {
    betas: [o.beta1, o.beta2],
    eps: o.epsilon,
    weightDecay: o.weight_decay,
  });
  const schedule = { type: 'linear', learningRate, warmupSteps: o.warmup_steps, totalSteps } as const;
  const log: StepLog[] = [];
  for (let step = 0; step < totalSteps; step++) {
    const microBatches = [0, 1].map((m) => pool[(2 * step + m) % pool.length]!);
    const labelledTotal = labelledTokens(microBatches.flat());
    let lossSum = 0;
    for (const [microBatch, sequences] of microBatches.entries()) {
      const at = { labelledTotal, seed: 0, step, microBatch };
      lossSum += accumulateGradients(model, pack(sequences), at).lossSum;
    }
    const rate = learningRateAt(step, schedule);
    const { gradNorm, applied } = optimizer.step(rate, { maxGradNorm: o.max_grad_norm });
    if (!applied) throw new Error(`step ${step} was refused: gradient norm ${gradNorm}`);
    optimizer.zeroGrad();
    log.push({ loss: lossSum / labelledTotal, learning_rate: rate, grad_norm: gradNorm });
  }
  optimizer.dispose();
  return log;
}
