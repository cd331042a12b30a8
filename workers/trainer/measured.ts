/** What training and evaluation measure, and the public names of it. Pure: both supervisor and child use it. */

export interface Measured {
  /** Mean loss (natural log) of a labelled token, or of a pair. */
  loss: number;
  /** Share of labelled tokens (DPO: of the preferred answers) whose most likely prediction is right. */
  accuracy: number;
  /** What else the method measures, by its public name. */
  more?: Record<string, number>;
}

/** What DPO measures beside the loss, under TRL's names, in the order of step_metrics.csv. */
export const PREFERENCE_METRICS = [
  'rewards/chosen',
  'rewards/rejected',
  'rewards/accuracies',
  'rewards/margins',
  'logps/chosen',
  'logps/rejected',
] as const;

/** What a method measures beside loss and accuracy. */
export function metricNames(method: 'supervised' | 'dpo'): readonly string[] {
  return method === 'dpo' ? PREFERENCE_METRICS : [];
}

/**
 * A measurement under its public names: `<part>_loss`, `<part>_mean_token_accuracy` and what the method adds, which
 * carries no prefix where it was measured on training rows (as TRL has it).
 */
export function publicMetrics(
  part: 'train' | 'valid' | 'full_valid',
  { loss, accuracy, more = {} }: Measured,
): Record<string, number> {
  const metrics = { [`${part}_loss`]: loss, [`${part}_mean_token_accuracy`]: accuracy };
  for (const [name, value] of Object.entries(more)) {
    metrics[part === 'train' ? name : `${part}_${name}`] = value;
  }
  return metrics;
}
