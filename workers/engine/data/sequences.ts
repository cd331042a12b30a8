/** The token sequences of one example: one for what is learned as it is, two for a pair of answers. */
import type { Tokenizer } from '../tokenizer/load.ts';
import { EncodeError, type EncodeOptions, encodeSequence, type Sequence } from './encode.ts';
import type { Example } from './formats.ts';
import type { ChatExample, PreferenceExample } from './row-fields.ts';

/** Both conversations of a pair; only the last message of each is learned. */
function conversationsOf({ input, preferred, nonPreferred, tools }: PreferenceExample): ChatExample[] {
  return [preferred, nonPreferred].map((answer) => ({
    kind: 'chat',
    messages: [...input, answer],
    learn: [...input.map(() => false), true],
    tools,
  }));
}

/**
 * The sequences of an example, each at most `maxLength` long; null when the policy leaves the example out.
 * @throws EncodeError as encodeSequence does; of a pair it names the answer
 */
export function exampleSequences(
  example: Example,
  tokenizer: Tokenizer,
  options: EncodeOptions,
): Sequence[] | null {
  if (example.kind !== 'preference') {
    const sequence = encodeSequence(example, tokenizer, options);
    return sequence && [sequence];
  }
  const names = ['preferred_output', 'non_preferred_output'];
  const sequences = conversationsOf(example).map((conversation, k) => {
    try {
      return encodeSequence(conversation, tokenizer, options);
    } catch (error) {
      if (!(error instanceof EncodeError)) throw error;
      throw new EncodeError(
        error.code,
        error.path === 'messages' ? 'input.messages' : names[k]!,
        error.message,
      );
    }
  });
  return sequences.every((sequence) => sequence !== null) ? sequences : null;
}
