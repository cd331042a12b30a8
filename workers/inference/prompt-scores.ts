/**
 * Log-probabilities of a prompt's own tokens, gathered as the prompt runs. Knows logits by position; must not know
 * sequences or steps.
 */
import type { WirePromptToken } from '../../src/inference/protocol.ts';
import { scoreToken } from './sampling.ts';

interface Describer {
  describe(token: number): { token: string; bytes: number[] };
}

export class PromptScores {
  readonly #prompt: Int32Array;
  readonly #top: number;
  readonly #vocabulary: Describer;
  readonly #tokens: (WirePromptToken | undefined)[];

  /** `top`: alternatives reported for each token. */
  constructor(prompt: Int32Array, top: number, vocabulary: Describer) {
    this.#prompt = prompt;
    this.#top = top;
    this.#vocabulary = vocabulary;
    this.#tokens = new Array(prompt.length);
    this.#tokens[0] = { ...vocabulary.describe(prompt[0]!), logprob: null, top_logprobs: [] };
  }

  get complete(): boolean {
    return !this.#tokens.includes(undefined);
  }

  /** Logits after the token at `position`, which say how likely the next one was. */
  readonly take = (position: number, logits: Float32Array): void => {
    const next = position + 1;
    if (next >= this.#prompt.length) return;
    const { describe } = this.#vocabulary;
    const { logprob, top } = scoreToken(logits, this.#prompt[next]!, this.#top);
    this.#tokens[next] = {
      ...describe(this.#prompt[next]!),
      logprob,
      top_logprobs: top.map(([token, value]) => ({ ...describe(token), logprob: value })),
    };
  };

  tokens(): WirePromptToken[] {
    return this.#tokens.map((token) => token!);
  }
}
