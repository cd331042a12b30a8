// One example as the trainer sees it: its sequence, shifted. What Dataset and the batches do in two steps.
import { type EncodeOptions, encodeSequence, shift } from '../../../workers/engine/data/encode.ts';
import type { SupervisedExample } from '../../../workers/engine/data/formats.ts';
import type { Tokenizer } from '../../../workers/engine/tokenizer/load.ts';

export type EncodedExample = ReturnType<typeof shift> & { truncated: boolean };

/** Null when the example is over-long and the policy is 'drop'. @throws EncodeError */
export function encodeExample(
  example: SupervisedExample,
  tokenizer: Tokenizer,
  options: EncodeOptions,
): EncodedExample | null {
  const sequence = encodeSequence(example, tokenizer, options);
  return sequence && { ...shift(sequence.tokens, sequence.learn), truncated: sequence.truncated };
}
