/**
 * The corpus as token packs: which tokens training step s reads is a pure function of (seed, s), so an interrupted run
 * resumes with its step number alone.
 */
import { encodeSequence, type Sequence, shift } from '../../workers/engine/data/encode.ts';
import { concatenate, type PackableExample, type PackedBatch } from '../../workers/engine/data/pack.ts';
import type { ChatMessage } from '../../workers/engine/tokenizer/chat-template.ts';
import type { Tokenizer } from '../../workers/engine/tokenizer/load.ts';
import { corpusSample } from './corpus.ts';
import { Random } from './random.ts';
import type { Sample } from './sample.ts';
import { createWorld } from './world.ts';

/** Share of the conversations whose questions are learned too, not only the answers. */
const wholeShare = 0.3;

const options = { maxLength: 1024, overlong: 'truncate' } as const;

/** One sample as a token sequence. `whole`: every token is a target. Plain passages always learn everything. */
export function sampleSequence(sample: Sample, tokenizer: Tokenizer, whole: boolean): Sequence {
  if ('text' in sample) {
    const tokens = [...tokenizer.encode(sample.text), tokenizer.specialId('<|endoftext|>')];
    return { tokens, learn: tokens.map(() => true), truncated: false, specialsInText: 0 };
  }
  const messages = sample.messages as ChatMessage[];
  const learn = messages.map((message) => message.role === 'assistant');
  const sequence = encodeSequence({ kind: 'chat', messages, learn, tools: [] }, tokenizer, options)!;
  if (whole) sequence.learn.fill(true);
  return sequence;
}

/** Samples of one step: as many as fit into `packs` packs of `packTokens` tokens. */
export function stepBatches(
  tokenizer: Tokenizer,
  step: number,
  size: { packs: number; packTokens: number; seed: number },
): PackedBatch[] {
  const world = createWorld();
  const random = new Random(Math.imul(size.seed, 0x9e3779b1) + step);
  const batches: PackedBatch[] = [];
  let members: PackableExample[] = [];
  let used = 0;
  while (batches.length < size.packs) {
    const sequence = sampleSequence(corpusSample(world, random), tokenizer, random.chance(wholeShare));
    const example = shift(sequence.tokens, sequence.learn);
    if (used + example.ids.length > size.packTokens && members.length > 0) {
      batches.push(concatenate(members));
      members = [];
      used = 0;
    }
    members.push(example);
    used += example.ids.length;
  }
  return batches;
}
