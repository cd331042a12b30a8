import { beforeEach, describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { keep, release, scope, Tensor } from '../../workers/engine/tensor.ts';

const device = openDevice({ kind: 'cpu' });
let before = 0;

beforeEach(() => {
  before = device.memory().inUse;
});

const ramp = (n: number) => Float32Array.from({ length: n }, (_, i) => i + 0.5);

describe('Tensor', () => {
  it('carries values in and out; bf16 rounds to nearest even', () => {
    scope(() => {
      expect([...Tensor.fromFloat32(device, ramp(6), [2, 3]).toFloat32()]).toEqual([...ramp(6)]);
      expect([...Tensor.fromInt32(device, Int32Array.of(3, -4)).toInt32()]).toEqual([3, -4]);
      // 8 bits of significand: 257 lies halfway between 256 and 258 (even significand 128), 259 rounds up to 260
      const rounded = Tensor.fromFloat32(device, Float32Array.of(1, 257, 259), [3], 'bf16');
      expect([...rounded.toFloat32()]).toEqual([1, 256, 260]);
      expect(rounded.toBytes().length).toBe(6);
      expect([...Tensor.zeros(device, [2, 2]).toFloat32()]).toEqual([0, 0, 0, 0]);
    });
  });

  it('shares storage with reshape() and rows(), which outlive the tensor they came from', () => {
    const whole = Tensor.fromFloat32(device, ramp(12), [4, 3]);
    const middle = whole.rows(1, 3);
    expect(middle.shape).toEqual([2, 3]);
    device.native.fill(middle.handle, 7);
    expect([...whole.toFloat32().slice(2, 10)]).toEqual([2.5, 7, 7, 7, 7, 7, 7, 9.5]);
    const flat = whole.reshape([12]);
    whole.dispose();
    middle.dispose();
    expect(flat.toFloat32()[11]).toBe(11.5);
    flat.dispose();
    expect(device.memory().inUse).toBe(before);
  });

  it('refuses wrong shapes and ranges by name', () => {
    scope(() => {
      const tensor = Tensor.zeros(device, [4, 3]);
      expect(() => tensor.reshape([5, 2])).toThrow(/cannot reshape \[4,3\] to \[5,2\]/);
      expect(() => tensor.rows(2, 5)).toThrow(/rows 2\.\.5 are outside/);
      expect(() => tensor.rows(2, 2)).toThrow(/rows 2\.\.2/);
      expect(() => Tensor.fromFloat32(device, ramp(5), [2, 3])).toThrow(
        /5 elements do not fill shape \[2,3\]/,
      );
      expect(() => tensor.toInt32()).toThrow(/f32/);
    });
  });

  it('cannot be used after dispose(), which may be called twice', () => {
    const tensor = Tensor.zeros(device, [3]);
    tensor.dispose();
    tensor.dispose();
    expect(() => tensor.toFloat32()).toThrow(/used after dispose/);
    expect(tensor.disposed).toBe(true);
  });
});

describe('scope', () => {
  it('frees what is neither returned nor kept, and moves returned tensors outwards', () => {
    let kept: Tensor | undefined;
    scope(() => {
      const returned = scope(() => {
        Tensor.zeros(device, [1000]);
        kept = keep(Tensor.zeros(device, [10]));
        return { list: [Tensor.zeros(device, [20])] };
      });
      expect(returned.list[0]?.disposed).toBe(false);
      expect(kept?.disposed).toBe(false);
    });
    expect(kept?.disposed).toBe(false);
    kept?.dispose();
    expect(device.memory().inUse).toBe(before);
  });

  it('frees everything when the function throws', () => {
    expect(() =>
      scope(() => {
        Tensor.zeros(device, [1000]);
        throw new Error('inside');
      }),
    ).toThrow('inside');
    expect(device.memory().inUse).toBe(before);
  });

  it('refuses an asynchronous function', () => {
    expect(() => scope(async () => 1)).toThrow(/synchronous/);
  });

  it('release() frees only what the scope owns', () => {
    scope(() => {
      const owned = Tensor.zeros(device, [5]);
      const kept = keep(Tensor.zeros(device, [5]));
      release(owned);
      release(kept);
      expect(owned.disposed).toBe(true);
      expect(kept.disposed).toBe(false);
      kept.dispose();
    });
  });
});
