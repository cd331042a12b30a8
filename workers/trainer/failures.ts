/**
 * Failures that are the job's own: each with OpenAI's code, message and param. Whatever is not listed here is a crash
 * and tried again.
 */

import { SafetensorsError } from '../engine/io/safetensors.ts';
import { ModelConfigError } from '../engine/models/index.ts';
import { LoraConfigError } from '../engine/peft/lora.ts';
import { TemplateError } from '../engine/tokenizer/chat-template.ts';
import { TokenizerError } from '../engine/tokenizer/load.ts';

export interface FailureDetail {
  message: string;
  data: Record<string, unknown>;
}

/** Trying again would end the same way. */
export class TrainingFailed extends Error {
  override name = 'TrainingFailed';
  readonly error: { code: string; message: string; param: string | null };
  /** One event each, in front of the error. */
  readonly details: readonly FailureDetail[];

  constructor(error: TrainingFailed['error'], details: readonly FailureDetail[] = []) {
    super(error.message);
    this.error = error;
    this.details = details;
  }
}

/** A step that would have ruined the weights was refused. */
export class LossDiverged extends TrainingFailed {
  override name = 'LossDiverged';
  constructor(step: number, what: string) {
    super({
      code: 'loss_diverged',
      message:
        `Training diverged at step ${step}: ${what}. The step was not applied. ` +
        'A lower learning_rate_multiplier (or trainer.learning_rate) usually helps.',
      param: null,
    });
  }
}

const OUT_OF_MEMORY = 'LATHE_OUT_OF_MEMORY';
const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;

/**
 * The job's failure behind an error, or null when it is none (a bug, the machine's fault).
 * @param estimatedBytes what the training was expected to need
 */
export function failureOf(error: unknown, estimatedBytes: number | null): TrainingFailed | null {
  if (error instanceof TrainingFailed) return error;
  if (!(error instanceof Error)) return null;
  const fail = (code: string, message: string, param: string | null) =>
    new TrainingFailed({ code, message, param });
  if ((error as { code?: unknown }).code === OUT_OF_MEMORY) {
    const need =
      estimatedBytes === null ? '' : ` It was expected to need about ${mebibytes(estimatedBytes)}.`;
    const advice =
      'Lower trainer.max_tokens_per_pack, trainer.max_length or adapter.r, or use a larger machine.';
    const message = `The training did not fit into the worker's memory.${need} ${advice}`;
    // Which request did not fit, and what was in use and free then.
    const numbers = { message: `Out of memory: ${error.message}`, data: {} };
    return new TrainingFailed({ code: 'out_of_memory', message, param: null }, [numbers]);
  }
  if (error instanceof LoraConfigError)
    return fail('invalid_adapter', error.message, `adapter.${error.field}`);
  if (error instanceof ModelConfigError || error instanceof SafetensorsError) {
    return fail('base_model_invalid', `The base model cannot be opened: ${error.message}`, 'model');
  }
  if (error instanceof TokenizerError || error instanceof TemplateError) {
    return fail('base_model_invalid', `The base model's tokenizer cannot be used: ${error.message}`, 'model');
  }
  if ((error as NodeJS.ErrnoException).code === 'ENOENT' && error.message.includes('tokenizer.json')) {
    return fail('base_model_invalid', 'The base model has no tokenizer.json.', 'model');
  }
  return null;
}
