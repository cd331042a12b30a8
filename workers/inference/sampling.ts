/**
 * From a row of logits to the next token of one choice: bias and penalties, log-probabilities, temperature, nucleus.
 * Keeps only what the choice itself has said, so the result does not depend on what else is in the batch.
 *
 * Reported log-probabilities are log softmax of the logits after logit_bias and penalties at temperature 1: what the
 * model believes about the token it was allowed to say, not the sharpened distribution it was drawn from.
 */
import type { WireSampling } from '../../src/inference/protocol.ts';
import { uniformAt } from '../engine/rng.ts';
import type { GrammarState } from './grammar/states.ts';
import type { Draw, NoSample, Sample } from './sample.ts';

export class Sampler {
  readonly #sampling: WireSampling;
  readonly #seed: number;
  readonly #choice: number;
  readonly #bias: [token: number, bias: number][];
  /** How often each token was sampled so far. */
  readonly #counts = new Map<number, number>();
  #step = 0;

  readonly #grammar: GrammarState | null;

  /** Draws are a function of (seed, choice, number of tokens sampled before) alone; `grammar` forbids tokens. */
  constructor(sampling: WireSampling, seed: number, choice: number, grammar: GrammarState | null = null) {
    this.#grammar = grammar;
    this.#sampling = sampling;
    this.#seed = seed;
    this.#choice = choice;
    this.#bias = Object.entries(sampling.logit_bias).map(([token, bias]) => [Number(token), bias]);
  }

  /** Samples from `logits` [V], which it changes, or says why it could not. */
  sample(logits: Float32Array): Sample | NoSample {
    const mask = this.#grammar?.mask() ?? null;
    if (mask === 'late' || mask === 'broken') return mask;
    this.#adjust(logits);
    const { temperature, top_p, logprobs, top_logprobs } = this.#sampling;
    let best = argmax(logits);
    if (best < 0 || !Number.isFinite(logits[best])) return 'not-finite';
    if (mask) {
      forbid(logits, mask);
      best = argmax(logits);
    }
    const peak = logits[best] ?? Number.NaN;
    if (!Number.isFinite(peak)) return 'dead-end';
    const greedy = temperature === 0 || top_p === 0;
    let logTotal = 0;
    if (logprobs) {
      let total = 0;
      for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i]! - peak);
      logTotal = peak + Math.log(total);
    }
    const step = this.#step++;
    const token = greedy
      ? best
      : draw(logits, peak, temperature, top_p, uniformAt(this.#seed, this.#choice, step));
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1);
    if (!logprobs) return { token, logprob: 0, top: [] };
    return { token, logprob: logits[token]! - logTotal, top: largest(logits, top_logprobs, logTotal) };
  }

  /** What sample() would draw by, for a device that draws itself; drawn() tells what it was. */
  draw(): Draw | 'late' | 'broken' {
    const mask = this.#grammar?.mask() ?? null;
    if (mask === 'late' || mask === 'broken') return mask;
    const { frequency_penalty: frequency, presence_penalty: presence } = this.#sampling;
    const offsets = new Map(this.#bias);
    if (frequency !== 0 || presence !== 0) {
      for (const [token, count] of this.#counts)
        offsets.set(token, (offsets.get(token) ?? 0) - (count * frequency + presence));
    }
    return {
      sampling: this.#sampling,
      seed: this.#seed,
      choice: this.#choice,
      step: this.#step,
      offsets,
      mask,
    };
  }

  /** Counts a token that was drawn elsewhere. */
  drawn(token: number): void {
    this.#step++;
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1);
  }

  /** logit -= count·frequency_penalty + [count > 0]·presence_penalty; logit += bias (OpenAI's API reference). */
  #adjust(logits: Float32Array): void {
    const { frequency_penalty: frequency, presence_penalty: presence } = this.#sampling;
    if (frequency !== 0 || presence !== 0) {
      for (const [token, count] of this.#counts) logits[token]! -= count * frequency + presence;
    }
    for (const [token, bias] of this.#bias) logits[token]! += bias;
  }
}

/** Takes every token out whose bit in `mask` is 0. */
function forbid(logits: Float32Array, mask: Int32Array): void {
  for (let word = 0; word < mask.length; word++) {
    const bits = mask[word]!;
    if (bits === -1) continue;
    const end = Math.min(32 * (word + 1), logits.length);
    if (bits === 0) logits.fill(Number.NEGATIVE_INFINITY, 32 * word, end);
    else {
      for (let i = 32 * word, bit = bits; i < end; i++, bit >>>= 1) {
        if ((bit & 1) === 0) logits[i] = Number.NEGATIVE_INFINITY;
      }
    }
  }
}

/** The lowest index of the largest value; -1 when there is a NaN. */
function argmax(values: Float32Array): number {
  let best = 0;
  let most = values[0]!;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value <= most) continue;
    if (Number.isNaN(value)) return -1;
    most = value;
    best = i;
  }
  return best;
}

/** A draw from softmax(logits / temperature) cut to the smallest set of best tokens that holds `topP`. u in [0, 1). */
function draw(logits: Float32Array, peak: number, temperature: number, topP: number, u: number): number {
  const weights = scratch(logits.length);
  let total = 0;
  for (let i = 0; i < weights.length; i++) {
    const weight = Math.exp((logits[i]! - peak) / temperature);
    weights[i] = weight;
    total += weight;
  }
  if (topP >= 1) return walk(weights, null, u * total);
  const nucleus = nucleusOf(logits, weights, peak, temperature, topP * total);
  let kept = 0;
  for (const token of nucleus) kept += weights[token]!;
  return walk(weights, nucleus, u * kept);
}

/** Walks the tokens' weights until they sum to more than `target`; null walks all tokens. */
function walk(weights: Float64Array, tokens: Uint32Array | null, target: number): number {
  const count = tokens?.length ?? weights.length;
  let sum = 0;
  let last = 0;
  for (let i = 0; i < count; i++) {
    const token = tokens ? tokens[i]! : i;
    const weight = weights[token]!;
    if (weight === 0) continue; // a token of no weight is never drawn, not even by rounding
    sum += weight;
    last = token;
    if (sum > target) break;
  }
  return last;
}

/**
 * The most likely tokens, best first (ties: lower id), until their weights reach `mass`. Sorts only the tokens near
 * the peak: a threshold is lowered until enough mass lies above it, and whatever lies above it is exactly a prefix.
 */
function nucleusOf(
  logits: Float32Array,
  weights: Float64Array,
  peak: number,
  temperature: number,
  mass: number,
): Uint32Array {
  for (let depth = 8 * temperature; ; depth *= 2) {
    const candidates: number[] = [];
    let sum = 0;
    for (let i = 0; i < logits.length; i++) {
      if (logits[i]! < peak - depth) continue;
      candidates.push(i);
      sum += weights[i]!;
    }
    if (sum < mass && candidates.length < logits.length && depth < 1e6) continue;
    const ranked = rank(logits, candidates);
    let kept = 0;
    let length = 0;
    while (length < ranked.length && (kept < mass || length === 0)) kept += weights[ranked[length++]!]!;
    return ranked.subarray(0, length);
  }
}

const TOKEN_RANGE = 2 ** 20; // model configurations allow no larger vocabulary

/** Tokens by falling logit, ties by lower id: sorted as numbers made of the float's bits and the id, which is fast. */
function rank(logits: Float32Array, tokens: readonly number[]): Uint32Array {
  const bits = new Uint32Array(logits.buffer, logits.byteOffset, logits.length);
  const keys = new Float64Array(tokens.length);
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    const raw = bits[token]!;
    // Falling order of floats as rising integers: negative ones by their bits, positive ones by their complement.
    const falling = raw > 0x8000_0000 ? raw : 0x7fff_ffff - (raw & 0x7fff_ffff);
    keys[i] = falling * TOKEN_RANGE + token;
  }
  keys.sort();
  const ranked = new Uint32Array(keys.length);
  for (let i = 0; i < keys.length; i++) ranked[i] = keys[i]! % TOKEN_RANGE;
  return ranked;
}

let buffer = new Float64Array(0);

/** Room for `length` numbers, reused by every draw of this thread. */
function scratch(length: number): Float64Array {
  if (buffer.length < length) buffer = new Float64Array(length);
  return buffer.subarray(0, length);
}

/** What the model thought of a token that is given: its log-probability and the most likely ones. */
export function scoreToken(logits: Float32Array, token: number, top: number): Sample {
  const peak = logits[argmax(logits)] ?? Number.NaN;
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i]! - peak);
  const logTotal = peak + Math.log(total);
  return { token, logprob: logits[token]! - logTotal, top: largest(logits, top, logTotal) };
}

/** The `count` largest logits as log-probabilities, best first (ties: lower id). */
function largest(logits: Float32Array, count: number, logTotal: number): [number, number][] {
  const best: number[] = [];
  for (let i = 0; i < logits.length && count > 0; i++) {
    const value = logits[i]!;
    if (best.length === count && !(value > logits[best[count - 1]!]!)) continue;
    let at = best.length === count ? count - 1 : best.length;
    while (at > 0 && value > logits[best[at - 1]!]!) at--;
    best.splice(at, 0, i);
    if (best.length > count) best.pop();
  }
  // Forbidden tokens have no probability, and JSON has no word for its logarithm.
  return best
    .filter((token) => Number.isFinite(logits[token]))
    .map((token) => [token, logits[token]! - logTotal]);
}
