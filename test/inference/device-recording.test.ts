// Decode steps of the device's runner: when they are recorded, what they refuse, on the CPU's ops with a recorder that
// remembers the work.
import { describe, expect, it } from 'vitest';
import type { Recorder } from '../../workers/engine/graphs.ts';
import { KvCache } from '../../workers/engine/models/index.ts';
import type { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { DeviceRunner } from '../../workers/inference/device-runner.ts';
import type { RunItem } from '../../workers/inference/model-runner.ts';
import { Sampler } from '../../workers/inference/sampling.ts';
import {
  adapters,
  asks,
  BLOCK,
  BLOCKS_EACH,
  cacheFor,
  deviceRunner,
  owned,
  packed,
  plain,
  SEQUENCES,
} from './device-steps.ts';

describe('a decode step', () => {
  it('is recorded once a size, with and without adapters, and anew when the pool has moved', () => {
    let live = 0;
    const recorder: Recorder = {
      record: (work) => {
        live++;
        return { run: work, dispose: () => live-- };
      },
    };
    const runner = deviceRunner({ recorder });
    const decode = (rows: number, used: LoraAdapter | null) =>
      runner.run(
        Array.from({ length: rows }, (_, s) => ({
          tokens: Int32Array.of(5 + s),
          start: 0,
          blocks: [s],
          adapterKey: used && 'one',
          adapter: used,
          sampler: null,
          score: null,
        })),
      );
    const [large, small] = [adapters[0]!, adapters[1]!];
    decode(5, null);
    expect(live).toBe(0);
    for (const rows of [7, 8, 6]) decode(rows, null);
    expect(live).toBe(1);
    for (const rows of [9, 12, 10]) decode(rows, small);
    expect(live).toBe(1); // the pool has come: what was there before may read another one
    for (const rows of [9, 9, 3, 3]) decode(rows, null);
    expect(live).toBe(3);
    for (const rows of [9, 12, 2, 2]) decode(rows, large);
    expect(live).toBe(2);
    decode(2, small);
    expect(live).toBe(2);
    expect(runner.recorded).toBe(2);
    runner.dispose();
    expect(live).toBe(0);
  });

  it('refuses what a recorded one could not check', () => {
    const runner = deviceRunner();
    const item = (over: Partial<RunItem<LoraAdapter>>): RunItem<LoraAdapter> => ({
      tokens: Int32Array.of(5),
      start: 0,
      blocks: [0],
      adapterKey: null,
      adapter: null,
      sampler: null,
      score: null,
      ...over,
    });
    expect(runner.run([item({})])).toEqual([null]);
    expect(() => runner.run([item({ tokens: Int32Array.of(100_000) })])).toThrow(/token id 100000/);
    expect(() => runner.run([item({ blocks: [SEQUENCES * BLOCKS_EACH] })])).toThrow(/cache row/);
    expect(() => runner.run([item({ blocks: [0, -1] })])).toThrow(/block -1/);
  });

  it('that failed is asked for op by op the next time, before it is recorded', () => {
    let [recordings, live, fails] = [0, 0, true];
    const recorder: Recorder = {
      record: (work) => {
        recordings++;
        if (fails) throw new Error('broken');
        live++;
        return { run: work, dispose: () => live-- };
      },
    };
    const runner = deviceRunner({ recorder });
    const [ask] = asks(1, { temperature: 0, logprobs: true });
    const item = (sampler: Sampler): RunItem<LoraAdapter> => ({
      tokens: ask!.prompt.subarray(0, 1),
      start: 0,
      blocks: [3],
      adapterKey: null,
      adapter: null,
      sampler,
      score: null,
    });
    const sampled = () => runner.run([item(new Sampler(ask!.sampling, 1, 0))])[0];
    const first = sampled();
    expect(sampled).toThrow('broken');
    fails = false;
    expect(sampled()).toEqual(first);
    expect([recordings, live]).toEqual([1, 0]);
    expect(sampled()).toEqual(first);
    expect([recordings, live]).toEqual([2, 1]);
  });

  it('needs plain weights and rows for padding', () => {
    const options = { vocabSize: 8, adapterSlots: 1, adapterBytes: 2 ** 20 };
    const bare = owned(new KvCache(plain, { blocks: 2, blockSize: BLOCK }));
    expect(() => new DeviceRunner(plain, bare, options)).toThrow('no rows for padding');
    expect(() => new DeviceRunner(packed, cacheFor(packed), options)).toThrow('no plain weights');
  });
});
