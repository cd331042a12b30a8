// Micro-batches that are padded, recorded and replayed against the same ones run op by op, on a device that keeps the
// native calls and runs those again. What runs op by op and what is replayed agree to the bit on the same padded batch;
// beside the batch as it is only the order of sums over tokens differs.
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { parameterGradient } from '../../workers/engine/autograd.ts';
import { openDevice } from '../../workers/engine/device.ts';
import {
  paddedSize,
  type RecordedBatches,
  tokensWorthRecording,
} from '../../workers/engine/losses/recorded-batches.ts';
import { accumulateGradientsLater, recordedGradients } from '../../workers/engine/losses/supervised.ts';
import type { Model, PackedBatch } from '../../workers/engine/models/index.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { disposeAfterEach } from '../helpers/owned.ts';
import { RUN_SEED } from '../helpers/tolerance.ts';
import { recordingDevice } from './recording.ts';
import { labelledCount, packSequences, randomIds, relativeError, tinyModel, VOCABULARY } from './tiny.ts';

const cpu = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();
const TOKENS_MAX = 256;

function adapted(model: Model, dropout = 0): Model {
  const { native } = cpu;
  const adapter = own(LoraAdapter.create(model, { ...LORA_DEFAULTS, r: 4, lora_dropout: dropout }, 5));
  for (const [name, tensor] of adapter.parameters())
    if (name.includes('lora_B')) native.randomNormal(tensor.handle, 0, 0.1, 6, name.length);
  model.attach(adapter);
  return model;
}

/** Sequences of random lengths from `least` on, `tokens` in all; half the tokens of each carry no label. */
function randomBatch(tokens: number, seed: number, least = 20): PackedBatch {
  const sequences: Int32Array[] = [];
  for (let left = tokens, n = 0; left > 0; n++) {
    const length = Math.min(left, least + ((seed * 7919 + n * 104729) % 13));
    sequences.push(randomIds(length, seed + n));
    left -= length;
  }
  const batch = packSequences(sequences);
  for (let t = 1; t < tokens; t += 2) batch.targets[t] = -100;
  return batch;
}

interface Found {
  lossSum: number;
  labelled: number;
  correct: number;
  gradients: Float32Array[];
}

function gradientsOf(model: Model, batch: PackedBatch, recorded: RecordedBatches | null): Found {
  const { native } = model.device;
  const parameters = [...model.trainableParameters().values()];
  for (const p of parameters) native.fill(parameterGradient(p).handle, 0);
  const read = accumulateGradientsLater(model, batch, {
    ...{ labelledTotal: 2 * labelledCount(batch), seed: 1, step: 0, microBatch: 0, recorded },
  });
  return { ...read(), gradients: parameters.map((p) => p.grad!.toFloat32()) };
}

describe('padded sizes', () => {
  it('are at most a quarter larger beyond the smallest, and sizes themselves', () => {
    for (let count = 1; count <= 5000; count++) {
      const size = paddedSize(count);
      expect(paddedSize(size)).toBe(size);
      expect(size - count).toBeGreaterThanOrEqual(0);
      expect(size - count).toBeLessThan(Math.max(64, count / 4));
    }
    expect(new Set(Array.from({ length: 4096 }, (_, i) => paddedSize(i + 1))).size).toBe(20);
  });
});

describe.each(['lora', 'full', 'recomputed lora'] as const)('recorded micro-batches, %s', (method) => {
  const recompute = method.startsWith('recomputed');
  const prepared = (dtype: 'f32' | 'bf16' = 'f32') => {
    const recording = recordingDevice(cpu.native);
    const model = own(tinyModel(recording.device, { dtype, trainable: method === 'full' }));
    if (method !== 'full') adapted(model);
    const options = { recompute, tokensMax: TOKENS_MAX };
    const recorded = own(recordedGradients(model, { ...options, recorder: recording.recorder }));
    const padded = own(recordedGradients(model, { ...options, recorder: null }));
    return { model, recorded, padded, counts: recording.counts };
  };

  it.each(['f32', 'bf16'] as const)('equal the same ones op by op, bit for bit (%s)', (dtype) => {
    const { model, recorded, padded, counts } = prepared(dtype);
    // One shape throughout, so that all but the first two runs are replays of other numbers.
    for (const [i, tokens] of [250, 256, 193, 224, 201].entries()) {
      const batch = randomBatch(tokens, RUN_SEED + 4 * i);
      expect(gradientsOf(model, batch, recorded)).toEqual(gradientsOf(model, batch, padded));
    }
    expect(counts).toEqual({ recorded: 1, live: 1, runs: 4 });
  });

  it('have the losses and gradients of the batch as it is', () => {
    const { model, recorded } = prepared();
    for (const tokens of [2, 63, 64, 65, 130, 192, 131, 66, 3]) {
      const batch = randomBatch(tokens, RUN_SEED + tokens, 2);
      const [ours, plain] = [gradientsOf(model, batch, recorded), gradientsOf(model, batch, null)];
      expect([ours.labelled, ours.correct]).toEqual([plain.labelled, plain.correct]);
      // f32 sums of up to 200 rows in another order: a few roundings of 6e-8.
      expect(Math.abs(ours.lossSum - plain.lossSum) / plain.lossSum).toBeLessThan(1e-6);
      for (const [k, gradient] of ours.gradients.entries())
        expect(relativeError(gradient, plain.gradients[k]!)).toBeLessThan(1e-5);
    }
  });

  it('are recorded when a size comes again, forgotten with their memory', () => {
    const { model, recorded, counts } = prepared();
    for (const tokens of [10, 100, 150, 200, 256, 257, 20, 120])
      gradientsOf(model, randomBatch(tokens, 4), recorded);
    expect(counts).toEqual({ recorded: 3, live: 3, runs: 3 });
    expect(recorded.takes(randomBatch(257, 4))).toBe(false);
    expect(recorded.recorded).toBe(3);
    recorded.dispose();
    expect(counts.live).toBe(0);
  });
});

describe('recorded micro-batches', () => {
  const device = recordingDevice(cpu.native);
  const options = { recompute: false, tokensMax: TOKENS_MAX, recorder: device.recorder };

  it('refuse what a replay could not check', () => {
    const model = own(tinyModel(device.device));
    const recorded = own(recordedGradients(model, options));
    const batch = randomBatch(40, 3);
    const at = (change: Partial<PackedBatch>) => () => gradientsOf(model, { ...batch, ...change }, recorded);
    const wrong = (from: Int32Array, index: number, value: number) => from.with(index, value);
    expect(at({ ids: wrong(batch.ids, 7, VOCABULARY) })).toThrow(/token id 64 is outside/);
    expect(at({ ids: wrong(batch.ids, 7, -1) })).toThrow(/token id -1/);
    expect(at({ targets: wrong(batch.targets, 1, VOCABULARY) })).toThrow(/token id 64/);
    expect(at({ positions: wrong(batch.positions, 2, 64) })).toThrow(/position is outside the 64/);
    expect(at({ positions: wrong(batch.positions, 2, -3) })).toThrow(/position is outside/);
    expect(at({ cuSeqlens: wrong(batch.cuSeqlens, 1, 99) })).toThrow(/must not fall/);
    expect(at({ cuSeqlens: wrong(batch.cuSeqlens, 0, 1) })).toThrow(/bounds from 0/);
    expect(at({})).not.toThrow();
  });

  it('take as many sequences as tokens', () => {
    const model = own(tinyModel(device.device));
    const recorded = own(recordedGradients(model, options));
    const [ids, targets] = [randomIds(TOKENS_MAX, 5), randomIds(TOKENS_MAX, 6)];
    const cuSeqlens = Int32Array.from({ length: TOKENS_MAX + 1 }, (_, s) => s);
    const batch = { ids, targets, positions: new Int32Array(TOKENS_MAX), cuSeqlens };
    const [ours, plain] = [gradientsOf(model, batch, recorded), gradientsOf(model, batch, null)];
    expect(ours.labelled).toBe(TOKENS_MAX);
    expect(Math.abs(ours.lossSum - plain.lossSum) / plain.lossSum).toBeLessThan(1e-6);
  });

  it('are not for dropout', () => {
    const model = adapted(own(tinyModel(device.device, { trainable: false })), 0.1);
    expect(() => recordedGradients(model, options)).toThrow('dropout cannot be recorded');
  });

  it('that failed are run op by op the next time', () => {
    const model = own(tinyModel(device.device));
    let fails = true;
    const recorder = {
      record: (work: () => void) => {
        if (fails) throw new Error('broken');
        return device.recorder.record(work);
      },
    };
    const recorded = own(recordedGradients(model, { ...options, recorder }));
    const batch = randomBatch(40, 3);
    const first = gradientsOf(model, batch, recorded);
    expect(() => gradientsOf(model, batch, recorded)).toThrow('broken');
    fails = false;
    for (let i = 0; i < 3; i++) expect(gradientsOf(model, batch, recorded)).toEqual(first);
    expect(recorded.recorded).toBe(1);
  });

  it('outlive a rotary table that has grown', () => {
    const recording = recordingDevice(cpu.native);
    const model = own(tinyModel(recording.device, { config: { max_position_embeddings: 2048 } }));
    const at = { recompute: false, tokensMax: 1024, recorder: recording.recorder };
    const recorded = own(recordedGradients(model, at));
    const [short, long] = [randomBatch(60, 3), packSequences([randomIds(600, 4)])];
    const first = gradientsOf(model, short, recorded);
    gradientsOf(model, short, recorded);
    const { cos } = model.rope.covering(1);
    gradientsOf(model, long, recorded);
    expect(cos.disposed).toBe(true);
    expect(gradientsOf(model, short, recorded)).toEqual(first);
    expect(recording.counts).toEqual({ recorded: 1, live: 1, runs: 2 });
  });

  it.each(['LATHE_CUDA_ERROR', 'LATHE_OUT_OF_MEMORY'])(
    'go on op by op, with a warning, where the device refuses to record: %s',
    async (code) => {
      const recording = recordingDevice(cpu.native);
      const model = own(tinyModel(recording.device));
      let calls = 0;
      const recorder = {
        record: (work: () => void) => {
          calls += 1;
          const replay = recording.recorder.record(work);
          if (calls === 1) return replay;
          replay.dispose();
          throw Object.assign(new Error('captureEnd: refused'), { code });
        },
      };
      const recorded = own(recordedGradients(model, { ...options, recorder }));
      const [one, other] = [randomBatch(40, 3), randomBatch(130, 3)];
      const found = [one, other].map((batch) => gradientsOf(model, batch, recorded));
      const warned = once(process, 'warning');
      for (const [i, batch] of [one, other, other, one].entries())
        expect(gradientsOf(model, batch, recorded)).toEqual(found[i % 3 === 0 ? 0 : 1]);
      expect([calls, recorded.recorded, recording.counts.live]).toEqual([2, 0, 0]);
      const [warning] = (await warned) as [Error];
      expect(warning.message).toBe('ops are no longer recorded, which is slower: captureEnd: refused');
    },
  );

  it('pay in small models: fewer tokens the larger the model', () => {
    const tokens = [1e6, 6e8, 4e9, 7.6e9, 1e12].map((total) =>
      tokensWorthRecording({
        config: { layers: 28 },
        adapter: {},
        counts: () => ({ total, trainable: 1 }),
      } as unknown as Model),
    );
    expect(tokens).toEqual([4096, 3072, 512, 256, 0]);
  });
});
