/**
 * Who owns which block of the paged key/value cache: block tables, reference counts and the prefix cache.
 * Blocks are numbers here; this file must not know tensors, models or the queue.
 *
 * Full blocks are named by a hash chain over (salt, tokens so far), so equal names mean equal content; a block that
 * nobody references keeps its content until it is needed (least recently used first). After PagedAttention (Kwon et
 * al. 2023, arXiv:2309.06180) and vLLM's block-hash prefix cache.
 */
import { createHash } from 'node:crypto';
import type { Sequence } from './sequence.ts';

export interface KvBlocksOptions {
  blocks: number;
  blockSize: number;
  prefixCache: boolean;
}

export class KvBlocks {
  readonly blockSize: number;
  readonly total: number;
  readonly #prefixCache: boolean;
  readonly #references: Int32Array;
  /** Content key of each block, or null. */
  readonly #keyOf: (string | null)[];
  readonly #byKey = new Map<string, number>();
  /** Blocks without content. */
  readonly #empty: number[] = [];
  /** Unreferenced blocks with content, least recently used first. */
  readonly #idle = new Set<number>();

  constructor(options: KvBlocksOptions) {
    if (!Number.isInteger(options.blocks) || options.blocks < 1)
      throw new Error('kv-blocks: blocks must be >= 1');
    if (!Number.isInteger(options.blockSize) || options.blockSize < 1) {
      throw new Error('kv-blocks: blockSize must be >= 1');
    }
    this.blockSize = options.blockSize;
    this.total = options.blocks;
    this.#prefixCache = options.prefixCache;
    this.#references = new Int32Array(options.blocks);
    this.#keyOf = new Array<string | null>(options.blocks).fill(null);
    for (let block = options.blocks - 1; block >= 0; block--) this.#empty.push(block);
  }

  /** Blocks that can be handed out now; cached but unreferenced ones count. */
  get free(): number {
    return this.#empty.length + this.#idle.size;
  }

  /** Blocks a sequence of `length` tokens occupies. */
  blocksFor(length: number): number {
    return Math.ceil(length / this.blockSize);
  }

  /** Blocks still missing for `sequence` to hold `length` tokens. */
  missing(sequence: Sequence, length: number): number {
    return Math.max(0, this.blocksFor(length) - sequence.blocks.length);
  }

  /**
   * Gives a sequence without blocks the longest cached prefix of its tokens, always leaving at least one token to
   * run (its logits are needed). Returns the tokens reused.
   */
  reusePrefix(sequence: Sequence): number {
    if (sequence.blocks.length > 0) throw new Error('kv-blocks: reusePrefix on a sequence that holds blocks');
    if (this.#prefixCache) {
      const usable = Math.floor((sequence.length - 1) / this.blockSize);
      for (let i = 0; i < usable; i++) {
        const block = this.#byKey.get(this.#key(sequence, i));
        if (block === undefined) break;
        this.#retain(block);
        sequence.blocks.push(block);
      }
    }
    sequence.computed = sequence.blocks.length * this.blockSize;
    return sequence.computed;
  }

  /** Extends the block table to hold `length` tokens; false, with nothing changed, when too few blocks are free. */
  cover(sequence: Sequence, length: number): boolean {
    const missing = this.missing(sequence, length);
    if (missing > this.free) return false;
    for (let i = 0; i < missing; i++) sequence.blocks.push(this.#take());
    return true;
  }

  /** Records that `count` more tokens of the sequence are in its blocks, and publishes the blocks that became full. */
  commit(sequence: Sequence, count: number): void {
    const before = Math.floor(sequence.computed / this.blockSize);
    sequence.computed += count;
    if (sequence.computed > sequence.length || this.missing(sequence, sequence.computed) > 0) {
      throw new Error('kv-blocks: commit beyond the tokens or the blocks of the sequence');
    }
    if (!this.#prefixCache) return;
    const after = Math.floor(sequence.computed / this.blockSize);
    for (let i = before; i < after; i++) {
      const key = this.#key(sequence, i);
      if (this.#byKey.has(key)) continue; // the same content exists; this copy stays private
      const block = sequence.blocks[i]!;
      this.#byKey.set(key, block);
      this.#keyOf[block] = key;
    }
  }

  /** Takes every block away from the sequence; its tokens stay, so it can be run again. */
  release(sequence: Sequence): void {
    for (let i = sequence.blocks.length - 1; i >= 0; i--) this.#drop(sequence.blocks[i]!); // tails are evicted first
    sequence.blocks = [];
    sequence.computed = 0;
  }

  /** Throws when a block is lost, counted twice or referenced wrongly; `holders` are all sequences with blocks. */
  verify(holders: readonly Sequence[]): void {
    const expected = new Int32Array(this.total);
    for (const sequence of holders) for (const block of sequence.blocks) expected[block]!++;
    const empty = new Set(this.#empty);
    if (empty.size !== this.#empty.length) throw new Error('kv-blocks: a block is listed empty twice');
    for (let block = 0; block < this.total; block++) {
      const references = this.#references[block]!;
      if (references !== expected[block]) {
        throw new Error(`kv-blocks: block ${block} has ${references} references, ${expected[block]} holders`);
      }
      const places = (empty.has(block) ? 1 : 0) + (this.#idle.has(block) ? 1 : 0) + (references > 0 ? 1 : 0);
      if (places !== 1) throw new Error(`kv-blocks: block ${block} is in ${places} places`);
      const key = this.#keyOf[block]!;
      if (key !== null && this.#byKey.get(key) !== block)
        throw new Error(`kv-blocks: block ${block} has a stale key`);
      if (key !== null && empty.has(block)) throw new Error(`kv-blocks: empty block ${block} has a key`);
    }
    const keyed = this.#keyOf.filter((key) => key !== null).length;
    if (this.#byKey.size !== keyed)
      throw new Error('kv-blocks: the key table holds blocks that lost their key');
  }

  #key(sequence: Sequence, index: number): string {
    while (sequence.blockKeys.length <= index) {
      const i = sequence.blockKeys.length;
      const tokens = sequence.slice(i * this.blockSize, (i + 1) * this.blockSize);
      const hash = createHash('sha256').update(
        i === 0 ? `salt:${sequence.cacheSalt}` : sequence.blockKeys[i - 1]!,
      );
      hash.update('\n').update(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength));
      sequence.blockKeys.push(hash.digest('base64'));
    }
    return sequence.blockKeys[index]!;
  }

  #take(): number {
    let block = this.#empty.pop();
    if (block === undefined) {
      block = this.#idle.values().next().value;
      if (block === undefined) throw new Error('kv-blocks: no free block');
      this.#idle.delete(block);
      this.#byKey.delete(this.#keyOf[block]!);
      this.#keyOf[block] = null;
    }
    this.#references[block] = 1;
    return block;
  }

  #retain(block: number): void {
    this.#idle.delete(block);
    this.#references[block]!++;
  }

  #drop(block: number): void {
    const references = --this.#references[block]!;
    if (references < 0) throw new Error(`kv-blocks: block ${block} released twice`);
    if (references > 0) return;
    if (this.#keyOf[block] === null) this.#empty.push(block);
    else this.#idle.add(block);
  }
}
