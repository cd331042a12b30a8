/**
 * One example as token ids and labels. Labels come from rendering prefixes of the conversation and taking what an
 * assistant message adds ("prefix-diff"), so they hold for any chat template. Targets are already shifted: targets[i]
 * is the token that position i must predict, or -100 where nothing is learned.
 */
import { type ChatTemplate, type Cut, TemplateError } from '../tokenizer/chat-template.ts';
import type { Tokenizer } from '../tokenizer/load.ts';
import { asConversation, type SupervisedExample } from './formats.ts';
import type { ChatExample, CompletionExample } from './row-fields.ts';

/** No target at this position (the value transformers uses). */
export const ignoredTarget = -100;

export type Overlong = 'truncate' | 'drop' | 'error';

export interface EncodeOptions {
  /** Most tokens of one example, its last target included. */
  maxLength: number;
  /** What happens to a longer one: its end is cut off (as OpenAI does), it is left out, or it is an error. */
  overlong: Overlong;
}

/** The example cannot be learned from; `code` is one of reliability's data codes. */
export class EncodeError extends Error {
  override name = 'EncodeError';
  readonly code: string;
  readonly path: string;

  constructor(code: string, path: string, message: string) {
    super(message);
    this.code = code;
    this.path = path;
  }
}

/** A token sequence before the shift; learn[i] tells whether tokens[i] is a target. */
export interface Sequence {
  tokens: number[];
  learn: boolean[];
  truncated: boolean;
  /** Special-token strings found in the row's own text and kept as ordinary text. */
  specialsInText: number;
}

interface Piece {
  text: string;
  learn: boolean;
}

/** Where an answer ends inside rendered text: after its end token when nothing but space follows that. */
function trimAfterEnd(text: string, start: number, end: number, endTokens: readonly string[]): number {
  for (const token of endTokens) {
    const at = text.lastIndexOf(token, end - token.length);
    if (at >= start && text.slice(at + token.length, end).trim() === '') return at + token.length;
  }
  return end;
}

/**
 * The span of `full` that message `index` adds. Most templates render a prefix of the conversation as a prefix of the
 * text; where the rendering of a finished message depends on what follows (Qwen3 drops old thinking blocks), the span
 * starts at the opening and ends with the first end token.
 */
function answerSpan(
  full: string,
  opening: string,
  upTo: string,
  index: number,
  ends: readonly string[],
): [number, number] {
  if (!full.startsWith(opening)) {
    throw new EncodeError(
      'template_rejects',
      `messages[${index}]`,
      'the chat template renders the start of the conversation differently when this answer follows',
    );
  }
  const start = opening.length;
  if (upTo.startsWith(opening) && full.startsWith(upTo))
    return [start, trimAfterEnd(full, start, upTo.length, ends)];
  const found = ends
    .map((token) => [full.indexOf(token, start), token.length] as const)
    .filter(([at]) => at >= 0);
  if (found.length === 0) {
    throw new EncodeError(
      'template_rejects',
      `messages[${index}]`,
      'the chat template writes no end token after this answer',
    );
  }
  const [at, length] = found.reduce((first, next) => (next[0] < first[0] ? next : first));
  return [start, at + length];
}

function conversationPieces(
  example: ChatExample,
  template: ChatTemplate,
  endTokens: readonly string[],
): { pieces: Piece[]; parts: ReturnType<ChatTemplate['renderCuts']>['parts']; specialsInText: number } {
  const { messages, tools } = example;
  const answers = messages.map((_, i) => i).filter((i) => example.learn[i]);
  const cuts: Cut[] = [{ messages: messages.length, addGenerationPrompt: false }];
  for (const i of answers) {
    cuts.push({ messages: i, addGenerationPrompt: true }, { messages: i + 1, addGenerationPrompt: false });
  }
  const { texts, parts, specialsInText } = template.renderCuts(messages, { tools }, cuts);
  const full = texts[0]!;
  const pieces: Piece[] = [];
  let done = 0;
  answers.forEach((index, k) => {
    const [start, end] = answerSpan(full, texts[1 + 2 * k]!, texts[2 + 2 * k]!, index, endTokens);
    if (start > done) pieces.push({ text: full.slice(done, start), learn: false });
    pieces.push({ text: full.slice(start, end), learn: true });
    done = end;
  });
  return { pieces, parts, specialsInText };
}

function conversationSequence(example: SupervisedExample, tokenizer: Tokenizer, limit: number): Sequence {
  const { template } = tokenizer;
  if (template === null) {
    throw new EncodeError(
      'invalid_training_file',
      '',
      'this model has no chat template; use prompt/completion pairs',
    );
  }
  const endTokens = tokenizer.eosIds
    .filter((id) => tokenizer.isSpecial(id))
    .map((id) => tokenizer.tokenString(id));
  const { pieces, parts, specialsInText } = conversationPieces(asConversation(example), template, endTokens);
  const tokens: number[] = [];
  const learn: boolean[] = [];
  for (const piece of pieces) {
    for (const id of tokenizer.encodeRendered(parts(piece.text), limit + 1 - tokens.length)) {
      tokens.push(id);
      learn.push(piece.learn);
    }
    if (tokens.length > limit) break;
  }
  return { tokens, learn, truncated: false, specialsInText };
}

/** Prompt, completion, end token, for models without a chat template. The completion and the end token are learned. */
function completionSequence(example: CompletionExample, tokenizer: Tokenizer, limit: number): Sequence {
  const prompt = [...tokenizer.prefixIds, ...tokenizer.encodePrefix(example.prompt, limit + 1)];
  const completion = tokenizer.encodePrefix(example.completion, limit + 1);
  const end = tokenizer.eosIds.slice(0, 1);
  const tokens = [...prompt, ...completion, ...end];
  return { tokens, learn: tokens.map((_, i) => i >= prompt.length), truncated: false, specialsInText: 0 };
}

/**
 * The token sequence of one example, at most `maxLength` long; null when the policy leaves it out.
 * @throws EncodeError `example_too_long`, `no_trainable_tokens`, `template_rejects` or `invalid_training_file`.
 */
export function encodeSequence(
  example: SupervisedExample,
  tokenizer: Tokenizer,
  options: EncodeOptions,
): Sequence | null {
  const { maxLength, overlong } = options;
  const raw = example.kind === 'completion' && tokenizer.template === null;
  const sequence = attemptTemplate(() =>
    raw
      ? completionSequence(example, tokenizer, maxLength)
      : conversationSequence(example, tokenizer, maxLength),
  );
  if (sequence.tokens.length > maxLength) {
    if (overlong === 'drop') return null;
    if (overlong === 'error')
      throw new EncodeError('example_too_long', '', `longer than ${maxLength} tokens`);
    sequence.tokens.length = maxLength;
    sequence.learn.length = maxLength;
    sequence.truncated = true;
  }
  // The first token is never predicted, and nothing after the last target has to be read.
  const last = sequence.learn.lastIndexOf(true);
  if (last < 1) {
    const why = sequence.truncated
      ? `its first ${maxLength} tokens hold no answer`
      : 'no message has an answer to learn';
    throw new EncodeError('no_trainable_tokens', '', `nothing to learn from this example: ${why}`);
  }
  sequence.tokens.length = last + 1;
  sequence.learn.length = last + 1;
  return sequence;
}

function attemptTemplate<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof TemplateError && error.code === 'template_rejects') {
      throw new EncodeError('template_rejects', 'messages', error.message);
    }
    throw error;
  }
}

/** The shift: position i reads tokens[i] and predicts tokens[i+1] where that is learned. */
export function shift(
  tokens: ArrayLike<number>,
  learn: ArrayLike<boolean | number>,
): { ids: Int32Array; targets: Int32Array } {
  const positions = tokens.length - 1;
  const ids = new Int32Array(positions);
  const targets = new Int32Array(positions);
  for (let i = 0; i < positions; i++) {
    ids[i] = tokens[i]!;
    targets[i] = learn[i + 1] ? tokens[i + 1]! : ignoredTarget;
  }
  return { ids, targets };
}
