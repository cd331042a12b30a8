/** Optimizers and schedules: what other folders may import. */
export { AdamW, type AdamWOptions, type PendingStep, type StepResult } from './adamw.ts';
export { learningRateAt, type Schedule } from './schedule.ts';
