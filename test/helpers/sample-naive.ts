/**
 * The obvious sampler, by sorting the whole vocabulary, that the inference worker is tested against: penalties and
 * bias, then temperature, top-k and nucleus (arXiv:1904.09751).
 * A pure function: the draw depends on (seed, stream, position) alone, so generation repeats whatever else runs.
 */
import { uniformAt } from '../../workers/engine/rng.ts';

export interface SamplingOptions {
  /** 0 takes the most likely token, the lowest id among equals. */
  temperature: number;
  /** Keep the smallest set of best tokens with at least this probability; 1 keeps all. */
  top_p?: number;
  /** Keep this many best tokens; 0 keeps all. */
  top_k?: number;
  seed: number;
  /** Tells several generations with the same seed apart. Default 0. */
  stream?: number;
  /** How many tokens this generation has sampled before. */
  position: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  logit_bias?: Iterable<readonly [token: number, bias: number]>;
  /** How often each token was sampled so far in this generation; the penalties read it. */
  counts?: ReadonlyMap<number, number>;
  /** How many of the most likely tokens to report. */
  top_logprobs?: number;
}

export interface Sampled {
  token: number;
  /** Natural log of the token's probability after bias and penalties, at temperature 1. */
  logprob: number;
  /** The most likely tokens, best first, ties by lower id. */
  top: { token: number; logprob: number }[];
}

/** Samples from `logits` [V], which it does not change. @throws when they hold NaN or no finite value */
export function sampleToken(logits: Float32Array, options: SamplingOptions): Sampled {
  const { temperature, top_p = 1, top_k = 0, top_logprobs = 0 } = options;
  const adjusted = adjust(logits, options);
  const best = argmax(adjusted);
  const peak = adjusted[best]!;
  if (!Number.isFinite(peak)) throw new Error('cannot sample: the logits hold no finite maximum');
  let total = 0;
  for (const logit of adjusted) total += Math.exp(logit - peak);
  const logTotal = peak + Math.log(total);

  let token = best;
  if (temperature > 0) {
    const u = uniformAt(options.seed, options.stream ?? 0, options.position);
    const cut = top_p < 1 || top_k > 0;
    const candidates = cut ? nucleus(adjusted, peak, temperature, top_p, top_k) : adjusted.keys();
    token = draw(adjusted, candidates, peak, temperature, u) ?? best;
  }
  const top = top_logprobs > 0 ? ranked(adjusted).slice(0, top_logprobs) : [];
  return {
    token,
    logprob: adjusted[token]! - logTotal,
    top: [...top].map((id) => ({ token: id, logprob: adjusted[id]! - logTotal })),
  };
}

/** The lowest index of the largest value. @throws when there is a NaN: it would compare as neither */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (Number.isNaN(value)) throw new Error(`the logit of token ${i} is NaN`);
    if (value > values[best]!) best = i;
  }
  return best;
}

/** logit − count·frequency − [count > 0]·presence + bias. */
function adjust(logits: Float32Array, options: SamplingOptions): Float32Array {
  const { presence_penalty: presence = 0, frequency_penalty: frequency = 0 } = options;
  const adjusted = logits.slice();
  for (const [token, count] of options.counts ?? []) {
    if (count > 0) adjusted[token]! -= count * frequency + presence;
  }
  for (const [token, bias] of options.logit_bias ?? []) adjusted[token]! += bias;
  return adjusted;
}

/** Token ids by falling logit, ties by lower id. */
function ranked(logits: Float32Array): Uint32Array {
  return Uint32Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
}

/** The first of the ranked tokens that together hold `topP` of the probability, at most `topK` of them (0 = no limit). */
function nucleus(
  logits: Float32Array,
  peak: number,
  temperature: number,
  topP: number,
  topK: number,
): Uint32Array {
  const order = ranked(logits).subarray(0, topK > 0 ? topK : logits.length);
  let total = 0;
  for (const token of order) total += Math.exp((logits[token]! - peak) / temperature);
  let held = 0;
  let length = 0;
  while (length < order.length && (length === 0 || held < topP * total)) {
    held += Math.exp((logits[order[length++]!]! - peak) / temperature);
  }
  return order.subarray(0, length);
}

/** Walks the candidates' weights exp((logit − peak)/temperature) until they pass u of their sum. */
function draw(
  logits: Float32Array,
  candidates: Iterable<number>,
  peak: number,
  temperature: number,
  u: number,
): number | undefined {
  const tokens: number[] = [];
  const sums: number[] = [];
  let sum = 0;
  for (const token of candidates) {
    const weight = Math.exp((logits[token]! - peak) / temperature);
    if (weight === 0) continue;
    sum += weight;
    tokens.push(token);
    sums.push(sum);
  }
  return tokens[sums.findIndex((reached) => reached > u * sum)] ?? tokens.at(-1);
}
