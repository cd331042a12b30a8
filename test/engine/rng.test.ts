import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { dropoutStream, philox4x32, streamOf, uniformAt } from '../../workers/engine/rng.ts';
import { Tensor } from '../../workers/engine/tensor.ts';

describe('philox4x32', () => {
  it('gives the known answers of the Random123 distribution', () => {
    const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ');
    expect(hex(philox4x32([0, 0, 0, 0], [0, 0]))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
    const ones = 0xffffffff;
    expect(hex(philox4x32([ones, ones, ones, ones], [ones, ones]))).toBe(
      '408f276d 41c83b0e a20bc7c6 6d5451fd',
    );
    expect(hex(philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]))).toBe(
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    );
  });

  it('is the generator that the device uses', () => {
    const device = openDevice({ kind: 'cpu' });
    const [seed, stream] = [2 ** 33 + 5, 2 ** 34 + 9];
    const values = Tensor.empty(device, [8]);
    device.native.randomUniform(values.handle, 0, 1, seed, stream);
    const expected = [0, 1].flatMap((block) =>
      philox4x32([block, 0, 9, 4], [5, 2]).map((w) => (w >>> 8) * 2 ** -24),
    );
    expect([...values.toFloat32()]).toEqual(expected);
    values.dispose();
  });
});

describe('uniformAt', () => {
  it('has the moments of a uniform distribution and differs by seed, stream and index', () => {
    const draws = Array.from({ length: 4000 }, (_, i) => uniformAt(11, 3, i));
    const mean = draws.reduce((sum, u) => sum + u, 0) / draws.length;
    const variance = draws.reduce((sum, u) => sum + (u - mean) ** 2, 0) / draws.length;
    expect(mean).toBeCloseTo(0.5, 1);
    expect(variance).toBeCloseTo(1 / 12, 2);
    expect(new Set(draws).size).toBe(draws.length);
    expect(uniformAt(11, 4, 0)).not.toBe(draws[0]);
    expect(uniformAt(12, 3, 0)).not.toBe(draws[0]);
    expect(uniformAt(11, 3, 2 ** 40)).not.toBe(draws[0]);
  });
});

describe('streams', () => {
  it('are distinct for distinct names and stay below 2^48', () => {
    const names = Array.from({ length: 3000 }, (_, i) => `model.layers.${i}.self_attn.q_proj.weight`);
    const streams = names.map(streamOf);
    expect(new Set(streams).size).toBe(names.length);
    for (const stream of streams)
      expect(Number.isSafeInteger(stream) && stream >= 0 && stream < 2 ** 48).toBe(true);
  });

  it('of dropout never collide, and out-of-range arguments are refused', () => {
    const streams = new Set<number>();
    for (let step = 0; step < 8; step++) {
      for (let micro = 0; micro < 8; micro++) {
        for (let linear = 0; linear < 8; linear++) streams.add(dropoutStream(step, micro, linear));
      }
    }
    expect(streams.size).toBe(512);
    expect(Number.isSafeInteger(dropoutStream(2 ** 26 - 1, 2 ** 13 - 1, 2 ** 14 - 1))).toBe(true);
    expect(() => dropoutStream(0, 2 ** 13, 0)).toThrow(/out of range/);
  });
});
