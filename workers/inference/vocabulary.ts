/**
 * What generation needs of a tokenizer: which tokens may be said, which end an answer, and how one reads.
 * Knows tokenizers; must not know sequences or logits.
 */
import { StreamDecoder, type Tokenizer } from '../engine/tokenizer/load.ts';
import type { Vocabulary } from './generation.ts';

export function createVocabulary(
  tokenizer: Tokenizer,
  model: { vocabSize: number; eosTokenIds: readonly number[] },
): Vocabulary & { size: number } {
  const described = new Map<number, { token: string; bytes: number[] }>();
  return {
    // A model's embedding is often padded beyond its tokenizer; those rows mean nothing and are never sampled.
    size: Math.min(model.vocabSize, tokenizer.vocabSize),
    eos: new Set([...model.eosTokenIds, ...tokenizer.eosIds]),
    createDecoder: () => new StreamDecoder(tokenizer),
    describe: (token) => {
      let known = described.get(token);
      if (!known) {
        known = describeBytes(tokenizer.tokenBytes(token));
        described.set(token, known);
      }
      return known;
    },
  };
}

/** A token as OpenAI writes it: its text, or `bytes:\x..` for one that is not UTF-8 on its own. */
function describeBytes(bytes: Uint8Array): { token: string; bytes: number[] } {
  try {
    return {
      token: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes),
      bytes: [...bytes],
    };
  } catch {
    const codes = [...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`);
    return { token: `bytes:${codes.join('')}`, bytes: [...bytes] };
  }
}
