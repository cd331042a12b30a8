/** cos and sin of every position on the device, grown on demand; shared by training and serving. */
import type { Device } from '../device.ts';
import type { RotaryTable } from '../ops/rotary.ts';
import { keep, Tensor } from '../tensor.ts';
import type { ModelConfig } from './config.ts';
import { ropeFrequencies } from './rope-config.ts';

const FIRST_ROWS = 512;

export class RopeTables {
  readonly #config: ModelConfig;
  readonly #device: Device;
  #rows = 0;
  #table: RotaryTable | null = null;

  constructor(config: ModelConfig, device: Device) {
    this.#config = config;
    this.#device = device;
  }

  /**
   * A table of at least `positions` rows (at most max_position_embeddings).
   * @throws RangeError when more positions are needed than the model has
   */
  covering(positions: number): RotaryTable {
    const { maxPositionEmbeddings } = this.#config;
    if (positions > maxPositionEmbeddings) {
      throw new RangeError(
        `position ${positions - 1} is beyond the model's ${maxPositionEmbeddings} positions`,
      );
    }
    if (this.#table === null || positions > this.#rows) {
      let rows = Math.max(FIRST_ROWS, this.#rows);
      while (rows < positions) rows *= 2;
      this.dispose();
      this.#rows = Math.min(rows, maxPositionEmbeddings);
      this.#table = this.#build(this.#rows);
    }
    return this.#table;
  }

  dispose(): void {
    this.#table?.cos.dispose();
    this.#table?.sin.dispose();
    this.#table = null;
  }

  /** Angles are rounded to f32 before cos and sin, as the reference implementation does: models were trained so. */
  #build(rows: number): RotaryTable {
    const half = this.#config.headDim / 2;
    const { inverse, attentionFactor } = ropeFrequencies(this.#config.rope, this.#config.headDim);
    const rounded = Float32Array.from(inverse);
    const cos = new Float32Array(rows * half);
    const sin = new Float32Array(rows * half);
    for (let position = 0; position < rows; position++) {
      for (let j = 0; j < half; j++) {
        const angle = Math.fround(position * rounded[j]!);
        cos[position * half + j] = Math.cos(angle) * attentionFactor;
        sin[position * half + j] = Math.sin(angle) * attentionFactor;
      }
    }
    return {
      cos: keep(Tensor.fromFloat32(this.#device, cos, [rows, half])),
      sin: keep(Tensor.fromFloat32(this.#device, sin, [rows, half])),
    };
  }
}

/** The highest position plus one. */
export function positionCount(positions: Int32Array): number {
  let highest = -1;
  for (const position of positions) if (position > highest) highest = position;
  return highest + 1;
}
