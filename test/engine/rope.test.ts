import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { Fields } from '../../workers/engine/models/fields.ts';
import {
  type RopeConfig,
  readRopeConfig,
  ropeFrequencies,
  yarnRange,
} from '../../workers/engine/models/rope-config.ts';
import { RopeTables } from '../../workers/engine/models/rope-table.ts';
import { tinyConfig } from './tiny.ts';

const read = (json: Record<string, unknown>, maxPositions: number) =>
  readRopeConfig(new Fields(json), maxPositions);

function yarn(json: Record<string, unknown>, maxPositions: number) {
  const rope = read(json, maxPositions);
  if (rope.type !== 'yarn') throw new Error(`read ${rope.type}`);
  return rope;
}

// Golden values: computed independently with numpy from the papers' formulas.
describe('ropeFrequencies', () => {
  it('yarn, θ 10⁶, 32768 → ×4', () => {
    const scaling = { type: 'yarn', factor: 4, original_max_position_embeddings: 32768 };
    const rope = yarn({ rope_theta: 1e6, rope_scaling: scaling }, 32768);
    expect(yarnRange(rope, 128)).toEqual({ low: 23, high: 40 });
    const { inverse, attentionFactor } = ropeFrequencies(rope, 128);
    expect(attentionFactor).toBeCloseTo(1.138629436111989, 14);
    expect(inverse[16]).toBeCloseTo(0.03162277660168379, 15);
    expect(inverse[40]! / 4.445698525097307e-5).toBeCloseTo(1, 12);
    expect(inverse[63]! / 3.102344401879299e-7).toBeCloseTo(1, 12);
  });

  it('yarn, θ 10⁴, 4096 → ×8', () => {
    const scaling = { rope_type: 'yarn', factor: 8, original_max_position_embeddings: 4096, rope_theta: 1e4 };
    const rope = yarn({ rope_parameters: scaling }, 32768);
    expect(yarnRange(rope, 128)).toEqual({ low: 20, high: 46 });
    expect(rope.attentionFactor).toBeCloseTo(1.2079441541679836, 14);
  });

  it('yarn without a factor takes the ratio of the context lengths', () => {
    const rope = yarn({ rope_scaling: { type: 'yarn', original_max_position_embeddings: 4096 } }, 32768);
    expect(rope.factor).toBe(8);
  });

  it('llama3, θ 5·10⁵', () => {
    const scaling = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    };
    const plain = ropeFrequencies({ type: 'default', theta: 5e5 }, 128).inverse;
    const { inverse } = ropeFrequencies(read({ rope_theta: 5e5, rope_scaling: scaling }, 131072), 128);
    for (let j = 0; j <= 28; j++) expect(inverse[j]).toBe(plain[j]);
    const blended = [0.0021665708, 0.0013718936, 0.00085675141, 0.00052484616, 0.00031269375, 0.00017850781];
    for (const [i, value] of blended.entries()) expect(inverse[29 + i]! / value).toBeCloseTo(1, 6);
    for (let j = 35; j < 64; j++) expect(inverse[j]).toBeCloseTo(plain[j]! / 8, 15);
    expect(inverse[35]! / 9.5562124e-5).toBeCloseTo(1, 6);
    expect(inverse[63]! / 3.068925988914511e-7).toBeCloseTo(1, 12);
  });

  it('linear divides every frequency', () => {
    const rope: RopeConfig = { type: 'linear', theta: 1e4, factor: 4 };
    const plain = ropeFrequencies({ type: 'default', theta: 1e4 }, 16).inverse;
    expect(ropeFrequencies(rope, 16).inverse).toEqual(plain.map((inv) => inv / 4));
  });
});

describe('RopeTables', () => {
  it('grows on demand, keeps its values, and refuses positions beyond the model', () => {
    const device = openDevice({ kind: 'cpu' });
    const tables = new RopeTables(tinyConfig({ max_position_embeddings: 3000 }), device);
    const small = tables.covering(10).cos.toFloat32();
    const large = tables.covering(3000);
    expect(large.cos.shape).toEqual([3000, 8]);
    expect(large.cos.toFloat32().slice(0, small.length)).toEqual(small);
    expect(large.cos.toFloat32()[2999 * 8]).toBeCloseTo(Math.cos(2999), 6);
    expect(large.sin.toFloat32()[2999 * 8]).toBeCloseTo(Math.sin(2999), 6);
    expect(() => tables.covering(3001)).toThrow(/position 3000 is beyond the model's 3000 positions/);
    tables.dispose();
  });
});
