// What a training takes of a GPU's memory, as planned: with devices that say what they are and hold nothing.
import { describe, expect, it } from 'vitest';
import { shape } from '../../bench/shapes.ts';
import type { Model } from '../../workers/engine/models/index.ts';
import { planMemory } from '../../workers/trainer/memory-plan.ts';

const GIB = 2 ** 30;
const SUPERVISED = { type: 'supervised' } as const;

function modelOn(
  kind: 'cpu' | 'cuda',
  capacity: number | null,
  name: string,
  total: number,
  dropout = 0,
): Model {
  return {
    device: { kind, worksAhead: kind === 'cuda', capacity: () => capacity },
    config: shape(name),
    dtype: 'bf16',
    activationDtype: 'bf16',
    adapter: { config: { lora_dropout: dropout } },
    counts: () => ({ total, trainable: 5e6 }),
  } as unknown as Model;
}

const small = (capacity: number, dropout = 0) => modelOn('cuda', capacity, 'qwen3-0.6b', 6e8, dropout);

describe('the memory plan', () => {
  it('counts the activations of recorded micro-batches beside the others', () => {
    const plan = planMemory(SUPERVISED, small(80 * GIB), 2000);
    expect(plan).toMatchObject({
      recompute: false,
      paddedTokens: 2048,
      isRecorded: true,
      most: 0.92 * 80 * GIB,
    });
    const without = planMemory({ type: 'dpo', beta: 0.1 }, small(80 * GIB), 2048);
    expect(without).toMatchObject({ paddedTokens: 0, isRecorded: false });
    const weights = 2 * 6e8 + 4 * 4 * 5e6;
    expect((plan.bytes - weights) / (without.bytes - weights)).toBeCloseTo(2, 1);
  });

  it('records no more than small micro-batches: the model decides', () => {
    expect(planMemory(SUPERVISED, small(80 * GIB), 16_384).paddedTokens).toBe(3072);
    expect(planMemory(SUPERVISED, modelOn('cuda', 80 * GIB, 'qwen3-4b', 4e9), 8192).paddedTokens).toBe(640);
    expect(planMemory(SUPERVISED, modelOn('cuda', 80 * GIB, 'lathe-tiny', 4e6), 100).paddedTokens).toBe(128);
  });

  it('pads without recording where there is no room for it, so that numbers do not depend on the room', () => {
    const needed = planMemory(SUPERVISED, small(80 * GIB), 2000).bytes;
    const tight = planMemory(SUPERVISED, small(needed / 0.92 - 2 ** 20), 2000);
    expect(tight).toMatchObject({ paddedTokens: 2048, isRecorded: false, recompute: false });
    expect(tight.bytes).toBeLessThan(needed);
    expect(planMemory(SUPERVISED, small(4 * GIB), 2000)).toMatchObject({
      paddedTokens: 2048,
      recompute: true,
    });
  });

  it('leaves batches as they are with dropout and on the CPU', () => {
    const plain = { paddedTokens: 0, isRecorded: false };
    expect(planMemory(SUPERVISED, small(80 * GIB, 0.1), 2000)).toMatchObject(plain);
    expect(planMemory(SUPERVISED, modelOn('cpu', null, 'qwen3-0.6b', 6e8), 2000)).toMatchObject(plain);
  });
});
