/**
 * What train-cpu trains on: rows of random tokens with a prompt that is not learned, in even lengths or in those of short
 * chat data. A pure function of its numbers, so that Lathe and its peers get the same.
 */
import type { PackedBatch } from '../workers/engine/models/index.ts';
import { uniformAt } from '../workers/engine/rng.ts';

export interface Row {
  ids: number[];
  /** Tokens at the start that carry no label. */
  prompt: number;
}

export const LENGTHS = ['even', 'chat'] as const;
export type Lengths = (typeof LENGTHS)[number];

/** ln length of short chat data is normal: mean 67 tokens, 99 % below 156. */
const CHAT = { mu: 4.126, sigma: 0.397, shortest: 8, longest: 400 };
const SEED = 7;

/** `count` lengths in random order. */
export function chatLengths(count: number, stream: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniformAt(SEED, stream, 2 * i)));
    const normal = radius * Math.cos(2 * Math.PI * uniformAt(SEED, stream, 2 * i + 1));
    const length = Math.round(Math.exp(CHAT.mu + CHAT.sigma * normal));
    return Math.min(CHAT.longest, Math.max(CHAT.shortest, length));
  });
}

/** A row for each length; the last `labelled` share of its tokens is learned. */
export function randomRows(
  vocabSize: number,
  lengths: readonly number[],
  labelled: number,
  stream: number,
): Row[] {
  let at = 0;
  return lengths.map((length) => ({
    ids: Array.from({ length }, () => Math.floor(uniformAt(SEED, stream, at++) * vocabSize)),
    prompt: Math.ceil((1 - labelled) * length),
  }));
}

/** The rows end to end. */
export function packRows(rows: readonly Row[]): PackedBatch {
  const tokens = rows.reduce((sum, { ids }) => sum + ids.length, 0);
  const batch = {
    ids: new Int32Array(tokens),
    positions: new Int32Array(tokens),
    targets: new Int32Array(tokens).fill(-100),
    cuSeqlens: new Int32Array(rows.length + 1),
  };
  let start = 0;
  rows.forEach(({ ids, prompt }, s) => {
    batch.ids.set(ids, start);
    for (let i = 0; i < ids.length; i++) {
      batch.positions[start + i] = i;
      if (i + 1 < ids.length && i + 1 >= prompt) batch.targets[start + i] = ids[i + 1]!;
    }
    start += ids.length;
    batch.cuSeqlens[s + 1] = start;
  });
  return batch;
}
