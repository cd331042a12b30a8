/** A drawn token, why there is none, and what a device needs to draw one. */
import type { WireSampling } from '../../src/inference/protocol.ts';

export interface Sample {
  token: number;
  logprob: number;
  /** The most likely tokens with their log-probabilities, best first; as many as `top_logprobs` asks for. */
  top: [token: number, logprob: number][];
}

/**
 * Why there is no token: NaN or no finite peak among the logits; the mask of a constrained choice is not there yet
 * (ask again with the same logits), will never come, or forbids every token.
 */
export type NoSample = 'not-finite' | 'late' | 'broken' | 'dead-end';

/** What a device needs to draw a choice's next token. */
export interface Draw {
  sampling: WireSampling;
  seed: number;
  choice: number;
  /** Tokens drawn before. */
  step: number;
  /** What is added to the logits of these tokens: bias and penalties. */
  offsets: Map<number, number>;
  /** Bit token % 32 of word ⌊token / 32⌋ is 0 for a forbidden token; null forbids none. */
  mask: Int32Array | null;
}
