/** Memory of the paged key/value cache. It knows tensors; which sequence owns which block it does not. */
import { BYTES_PER_ELEMENT, keep, Tensor } from '../tensor.ts';
import type { Model } from './model.ts';

/** Keys and values of all layers in blocks of `blockSize` tokens; who owns which block is the scheduler's business. */
export class KvCache {
  readonly blocks: number;
  readonly blockSize: number;
  /** The first row that belongs to no block, where the option asked for such rows. */
  readonly scratchRow: number;
  /** Per layer, [blocks·blockSize, Hkv·D] of the dtype of the weights: decoding reads all of it for every token. */
  readonly keys: Tensor[] = [];
  readonly values: Tensor[] = [];
  /** Disposed with the cache: what was made for its tensors. */
  readonly companions: { dispose(): void }[] = [];

  /** @throws code LATHE_OUT_OF_MEMORY; nothing stays allocated then */
  constructor(model: Model, options: { blocks: number; blockSize?: number; scratchRows?: number }) {
    this.blocks = options.blocks;
    this.blockSize = options.blockSize ?? 16;
    this.scratchRow = this.blocks * this.blockSize;
    const scratchBlocks = Math.ceil((options.scratchRows ?? 0) / this.blockSize);
    const { layers, kvHeads, headDim } = model.config;
    const { dtype } = model;
    const shape = [(this.blocks + scratchBlocks) * this.blockSize, kvHeads * headDim];
    try {
      for (let layer = 0; layer < layers; layer++) {
        this.keys.push(keep(Tensor.empty(model.device, shape, dtype)));
        this.values.push(keep(Tensor.empty(model.device, shape, dtype)));
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Bytes that one block takes over all layers, for sizing a cache before it is made. */
  static bytesPerBlock(model: Model, blockSize = 16): number {
    const { layers, kvHeads, headDim } = model.config;
    return 2 * layers * blockSize * kvHeads * headDim * BYTES_PER_ELEMENT[model.dtype];
  }

  get bytes(): number {
    return [...this.keys, ...this.values].reduce((sum, tensor) => sum + tensor.bytes, 0);
  }

  dispose(): void {
    for (const companion of this.companions.splice(0)) companion.dispose();
    for (const tensor of [...this.keys, ...this.values]) tensor.dispose();
  }
}
