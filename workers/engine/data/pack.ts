/**
 * Lays examples end to end in packs of limited size, each with restarting positions and its own segment, so that no
 * token sees or predicts one of another example.
 */
import type { PackedBatch } from '../models/packed.ts';

export type { PackedBatch };

export interface PackableExample {
  ids: Int32Array;
  targets: Int32Array;
}

interface Pack {
  members: number[];
  size: number;
}

/**
 * Greedy packing without sorting: each example goes into the open pack with the most room (the first of equals) if it
 * fits there, else into a new pack. Lengths [6,3,5,2,4,1,7] with room for 8 give [6,2][3,5][4,1][7] (PaddleNLP's
 * greedy zero padding). An example longer than `maxTokens` gets a pack of its own.
 * Returns indices into `lengths`.
 */
export function packIndices(lengths: readonly number[], maxTokens: number): number[][] {
  const packs: Pack[] = [];
  lengths.forEach((length, index) => {
    let roomiest: Pack | undefined;
    for (const pack of packs) if (roomiest === undefined || pack.size < roomiest.size) roomiest = pack;
    if (roomiest !== undefined && roomiest.size + length <= maxTokens) {
      roomiest.members.push(index);
      roomiest.size += length;
    } else packs.push({ members: [index], size: length });
  });
  return packs.map((pack) => pack.members);
}

/** Joins examples into one batch, in order. */
export function concatenate(examples: readonly PackableExample[]): PackedBatch {
  const total = examples.reduce((sum, example) => sum + example.ids.length, 0);
  const ids = new Int32Array(total);
  const targets = new Int32Array(total);
  const positions = new Int32Array(total);
  const cuSeqlens = new Int32Array(examples.length + 1);
  let at = 0;
  examples.forEach((example, s) => {
    ids.set(example.ids, at);
    targets.set(example.targets, at);
    for (let i = 0; i < example.ids.length; i++) positions[at + i] = i;
    at += example.ids.length;
    cuSeqlens[s + 1] = at;
  });
  return { ids, positions, cuSeqlens, targets };
}

/** Packs examples greedily (see packIndices) and joins each pack. */
export function pack(examples: readonly PackableExample[], maxTokens: number): PackedBatch[] {
  const lengths = examples.map((example) => example.ids.length);
  return packIndices(lengths, maxTokens).map((members) => concatenate(members.map((i) => examples[i]!)));
}
