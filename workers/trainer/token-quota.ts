/**
 * How much one job may train on, as the operator has set it. Knows neither the database nor the files: only their counts.
 */
import { JobFailed } from './outcomes.ts';
import type { TrainingPlan } from './plan.ts';

/**
 * @param max tokens of all epochs together; 0 = no limit
 * @param tokensPerEpoch of the training file
 * @throws JobFailed `token_quota_exceeded`
 */
export function requireTokenRoom(
  max: number,
  tokensPerEpoch: number,
  plan: Pick<TrainingPlan, 'totalSteps' | 'stepsPerEpoch'>,
): void {
  const tokens = Math.round((tokensPerEpoch * plan.totalSteps) / plan.stepsPerEpoch);
  if (max === 0 || tokens <= max) return;
  const text = `The training file has ${tokensPerEpoch} tokens; ${plan.totalSteps} steps would train on ${tokens}, and the limit of a job is ${max}. Lower n_epochs or shorten the file.`;
  throw new JobFailed({ code: 'token_quota_exceeded', message: text, param: 'training_file' });
}
