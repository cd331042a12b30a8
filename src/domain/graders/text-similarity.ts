/**
 * The text similarity metrics, each 0 … 1, as their reference implementations define them: fuzzy_match is rapidfuzz's
 * ratio, bleu sacrebleu's sentence BLEU, gleu and meteor NLTK's (meteor without WordNet's synonyms, exact words and
 * stems only), rouge_* the F-measure of rouge-score without stemming. test/golden/text-metrics.json holds them to it.
 */
import { stem } from './porter-stemmer.ts';
import { longestCommonSubsequence } from './subsequence.ts';
import { rougeTokens, wordTokens } from './tokenize.ts';

export const TEXT_METRICS = [
  'fuzzy_match',
  'bleu',
  'gleu',
  'meteor',
  'rouge_1',
  'rouge_2',
  'rouge_3',
  'rouge_4',
  'rouge_5',
  'rouge_l',
] as const;
export type TextMetric = (typeof TEXT_METRICS)[number];

/** Characters of either text: beyond this a comparison would hold a processor for seconds. */
export const TEXT_MAX = 20_000;

/** How much `input` resembles `reference`. Both within TEXT_MAX characters. */
export async function textSimilarity(metric: TextMetric, input: string, reference: string): Promise<number> {
  switch (metric) {
    case 'fuzzy_match':
      return fuzzyRatio([...input], [...reference]);
    case 'bleu':
      return bleu(wordTokens(input), wordTokens(reference));
    case 'gleu':
      return gleu(wordTokens(input), wordTokens(reference));
    case 'meteor':
      return meteor(wordTokens(input), wordTokens(reference));
    case 'rouge_l':
      return rougeL(rougeTokens(input), rougeTokens(reference));
    default:
      return rougeN(rougeTokens(input), rougeTokens(reference), Number(metric.at(-1)));
  }
}

/** 1 − (insertions and deletions) / (both lengths), on characters. */
async function fuzzyRatio(a: string[], b: string[]): Promise<number> {
  const total = a.length + b.length;
  return total === 0 ? 1 : (2 * (await longestCommonSubsequence(a, b))) / total;
}

/** How often each n-gram occurs. */
function ngrams(tokens: string[], n: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= tokens.length; i++) {
    const key = tokens.slice(i, i + n).join('\u0000');
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

/** n-grams that both have, each as often as the rarer side has it. */
function overlap(a: Map<string, number>, b: Map<string, number>): number {
  let sum = 0;
  for (const [key, count] of a) sum += Math.min(count, b.get(key) ?? 0);
  return sum;
}

const possible = (length: number, n: number) => Math.max(0, length - n + 1);

/** Up to 4-grams; orders the input is too short for are left out, a precision of 0 is halved from order to order. */
function bleu(input: string[], reference: string[]): number {
  const correct = [1, 2, 3, 4].map((n) => overlap(ngrams(input, n), ngrams(reference, n)));
  if (correct.every((count) => count === 0)) return 0;
  let smooth = 1;
  let logs = 0;
  let orders = 0;
  for (const [i, count] of correct.entries()) {
    const total = possible(input.length, i + 1);
    if (total === 0) break;
    orders += 1;
    if (count === 0) smooth *= 2;
    logs += Math.log(count === 0 ? 1 / (smooth * total) : count / total);
  }
  const brevity = input.length < reference.length ? Math.exp(1 - reference.length / input.length) : 1;
  return brevity * Math.exp(logs / orders);
}

/** min(precision, recall) over all 1- to 4-grams together. */
function gleu(input: string[], reference: string[]): number {
  let matches = 0;
  let [ours, theirs] = [0, 0];
  for (const n of [1, 2, 3, 4]) {
    matches += overlap(ngrams(input, n), ngrams(reference, n));
    ours += possible(input.length, n);
    theirs += possible(reference.length, n);
  }
  const all = Math.max(ours, theirs);
  return all === 0 ? 0 : matches / all;
}

type Place = [index: number, word: string];

/** Matches equal words from the end, each with the last that is still free; returns pairs and what is left of both. */
function align(input: Place[], reference: Place[]) {
  const free = new Map<string, number[]>();
  for (const [at, [, word]] of reference.entries()) {
    const places = free.get(word);
    if (places) places.push(at);
    else free.set(word, [at]);
  }
  const pairs: [number, number][] = [];
  const used = new Set<number>();
  const left: Place[] = [];
  for (const [index, word] of input.toReversed()) {
    const at = free.get(word)?.pop();
    if (at === undefined) left.push([index, word]);
    else {
      pairs.push([index, reference[at]![0]]);
      used.add(at);
    }
  }
  return { pairs, input: left.toReversed(), reference: reference.filter((_, at) => !used.has(at)) };
}

/** α 0.9, β 3, γ 0.5: nine parts recall, a penalty for every break in the order. */
function meteor(input: string[], reference: string[]): number {
  const places = (tokens: string[]) => tokens.map((token, i): Place => [i, token.toLowerCase()]);
  const stems = (rest: Place[]) => rest.map(([i, word]): Place => [i, stem(word)]);
  const exact = align(places(input), places(reference));
  const stemmed = align(stems(exact.input), stems(exact.reference));
  const matches = [...exact.pairs, ...stemmed.pairs].toSorted(([a], [b]) => a - b);
  if (matches.length === 0) return 0;
  const precision = matches.length / input.length;
  const recall = matches.length / reference.length;
  const mean = (precision * recall) / (0.9 * precision + 0.1 * recall);
  let chunks = 1;
  for (let i = 1; i < matches.length; i++) {
    const [from, to] = [matches[i - 1]!, matches[i]!];
    if (to[0] !== from[0] + 1 || to[1] !== from[1] + 1) chunks += 1;
  }
  return (1 - 0.5 * (chunks / matches.length) ** 3) * mean;
}

function fMeasure(common: number, input: number, reference: number): number {
  const precision = common / Math.max(input, 1);
  const recall = common / Math.max(reference, 1);
  return precision + recall > 0 ? (2 * precision * recall) / (precision + recall) : 0;
}

function rougeN(input: string[], reference: string[], n: number): number {
  const common = overlap(ngrams(input, n), ngrams(reference, n));
  return fMeasure(common, possible(input.length, n), possible(reference.length, n));
}

async function rougeL(input: string[], reference: string[]): Promise<number> {
  return fMeasure(await longestCommonSubsequence(input, reference), input.length, reference.length);
}
