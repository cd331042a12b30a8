/** Learning-rate schedules, in order of difficulty. Pure functions of the step; nothing to save. */

export interface Schedule {
  type: 'constant' | 'linear' | 'cosine';
  /** The peak rate. */
  learningRate: number;
  /** Steps of linear warm-up from 0. */
  warmupSteps: number;
  totalSteps: number;
}

/**
 * The rate of step `step` (0-based): step/warmup·lr while warming up, then constant, or linear to 0 at totalSteps, or
 * lr·½(1 + cos(π·progress)). As transformers' get_scheduler: with warm-up, the first step's rate is 0.
 */
export function learningRateAt(step: number, schedule: Schedule): number {
  const { type, learningRate, warmupSteps, totalSteps } = schedule;
  if (step < warmupSteps) return (learningRate * step) / Math.max(1, warmupSteps);
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps));
  switch (type) {
    case 'constant':
      return learningRate;
    case 'linear':
      return learningRate * (1 - progress);
    case 'cosine':
      return learningRate * 0.5 * (1 + Math.cos(Math.PI * progress));
  }
}
