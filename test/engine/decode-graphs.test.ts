// Decode steps through recorded work must give what the plain forward gives. The recorder here repeats the recorded
// function itself: it runs on the same tensors every time, as a graph does, so stale inputs or results would show.
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import type { Recorder } from '../../workers/engine/graphs.ts';
import { DecodeGraphs } from '../../workers/engine/models/decode-graphs.ts';
import { KvCache } from '../../workers/engine/models/kv-cache.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { type PagedBatch, runPaged } from '../../workers/engine/models/paged.ts';
import { positionCount } from '../../workers/engine/models/rope-table.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { scope, Tensor } from '../../workers/engine/tensor.ts';
import { disposeAfterEach } from '../helpers/owned.ts';
import { tinyModel, VOCABULARY } from './tiny.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

function countingRecorder() {
  const seen = { recorded: 0, replayed: 0, disposed: 0 };
  const recorder: Recorder = {
    record(work) {
      seen.recorded++;
      return {
        run: () => {
          seen.replayed++;
          work();
        },
        dispose: () => {
          seen.disposed++;
        },
      };
    },
  };
  return { seen, recorder };
}

const BLOCK = 4;
const EACH = 8;

/** One new token for each sequence at the given positions; adapters in ranges. */
function step(ids: number[], position: number, adapters: PagedBatch['adapters']): PagedBatch {
  const blocks = Math.floor(position / BLOCK) + 1;
  const block = (s: number, i: number) => (EACH - 1 - i) * ids.length + s;
  return {
    ids: Int32Array.from(ids),
    positions: Int32Array.from(ids, () => position),
    slots: Int32Array.from(ids, (_, s) => block(s, blocks - 1) * BLOCK + (position % BLOCK)),
    cuSeqlensQ: Int32Array.from({ length: ids.length + 1 }, (_, s) => s),
    contextLens: Int32Array.from(ids, () => position + 1),
    blockTables: Int32Array.from({ length: ids.length * blocks }, (_, i) =>
      block(Math.floor(i / blocks), i % blocks),
    ),
    maxBlocks: blocks,
    logitRows: Int32Array.from(ids, (_, s) => s),
    adapters,
  };
}

/** The same forward without recording: op by op, on tensors of its own. */
function plainLogits(model: Model, batch: PagedBatch, cache: KvCache): Float32Array {
  return scope(() => {
    const numbers = (values: Int32Array, dims?: number[]) => Tensor.fromInt32(device, values, dims);
    const { adapters, contextLens, maxBlocks } = batch;
    const inputs = {
      ...{ ids: numbers(batch.ids), positions: numbers(batch.positions), slots: numbers(batch.slots) },
      ...{ cuSeqlensQ: numbers(batch.cuSeqlensQ), contextLens: numbers(contextLens) },
      blockTables: numbers(batch.blockTables, [contextLens.length, maxBlocks]),
      logitRows: numbers(batch.logitRows),
    };
    const logits = Tensor.empty(device, [batch.logitRows.length, model.config.vocabSize], 'f32');
    runPaged(model, inputs, adapters, cache, positionCount(batch.positions), logits);
    return logits.toFloat32();
  });
}

describe('recorded decode steps', () => {
  it('give the logits of the plain forward, step after step, with adapters that change', () => {
    const model = own(tinyModel(device, { trainable: false }));
    const adapter = own(LoraAdapter.create(model, { ...LORA_DEFAULTS, r: 4, lora_alpha: 8 }, 5));
    for (const tensor of adapter.parameters().values())
      device.native.randomNormal(tensor.handle, 0, 0.3, 11, tensor.size);
    const [plain, recorded] = [0, 1].map(() =>
      own(new KvCache(model, { blocks: EACH * 3, blockSize: BLOCK })),
    );
    const { seen, recorder } = countingRecorder();
    const graphs = new DecodeGraphs(model, recorded!, recorder);
    for (let position = 0; position < 20; position++) {
      const isSplit = position % 5 === 4;
      const adapters = isSplit
        ? [{ adapter, start: 0, end: 3 }]
        : [
            { adapter: null, start: 0, end: 1 },
            { adapter, start: 1, end: 3 },
          ];
      const ids = [0, 1, 2].map((s) => (position * 7 + s * 13) % VOCABULARY);
      const batch = step(ids, position, adapters);
      const expected = plainLogits(model, batch, plain!);
      expect(graphs.logits(batch), `position ${position}`).toEqual(expected);
    }
    // Four widths of the block table (1, 2, 4, 8 columns) for each of the two kinds of adapters, as far as they came up.
    expect(seen.recorded).toBeGreaterThanOrEqual(4);
    expect(seen.replayed).toBeGreaterThan(seen.recorded);
    recorded!.dispose();
    expect(seen.disposed).toBe(seen.recorded);
  });

  it('leave prompts and chosen rows to the plain forward', () => {
    const model = own(tinyModel(device, { trainable: false }));
    const cache = own(new KvCache(model, { blocks: EACH * 2, blockSize: BLOCK }));
    const graphs = new DecodeGraphs(model, cache, countingRecorder().recorder);
    const base = [{ adapter: null, start: 0, end: 2 }];
    const one = step([1, 2], 0, base);
    expect(graphs.logits({ ...one, logitRows: Int32Array.of(1) })).toBeNull();
    expect(graphs.logits({ ...one, logitRows: Int32Array.of(1, 0) })).toBeNull();
    expect(graphs.logits({ ...one, contextLens: Int32Array.of(2), logitRows: Int32Array.of(0) })).toBeNull();
    expect(graphs.logits(one)).not.toBeNull();
  });

  it('record only what has run: a first step that fails is forgotten, with its memory', () => {
    const model = own(tinyModel(device, { trainable: false }));
    const cache = own(new KvCache(model, { blocks: EACH * 2, blockSize: BLOCK }));
    const { seen, recorder } = countingRecorder();
    const graphs = new DecodeGraphs(model, cache, recorder);
    const base = [{ adapter: null, start: 0, end: 2 }];
    graphs.logits(step([1], 0, [{ adapter: null, start: 0, end: 1 }]));
    const held = device.memory().inUse;
    for (let twice = 0; twice < 2; twice++) {
      expect(() => graphs.logits(step([1, VOCABULARY], 0, base))).toThrow(/ids/);
      expect(device.memory().inUse).toBe(held);
    }
    const first = graphs.logits(step([1, 2], 0, base));
    expect(seen.recorded).toBe(0);
    expect(graphs.logits(step([1, 2], 0, base))).toEqual(first);
    expect(seen).toMatchObject({ recorded: 1, replayed: 1 });
  });

  it('forget the shape that was not used for longest, with its memory', () => {
    const model = own(tinyModel(device, { trainable: false }));
    const cache = own(new KvCache(model, { blocks: EACH * 34, blockSize: BLOCK }));
    const { seen, recorder } = countingRecorder();
    const graphs = new DecodeGraphs(model, cache, recorder);
    const run = (sequences: number) =>
      graphs.logits(
        step(
          Array.from({ length: sequences }, (_, s) => s),
          0,
          [{ adapter: null, start: 0, end: sequences }],
        ),
      );
    for (let twice = 0; twice < 2; twice++) run(1);
    expect(seen.recorded).toBe(1);
    for (let sequences = 2; sequences <= 16; sequences++) run(sequences);
    const held = device.memory().inUse;
    for (let sequences = 17; sequences <= 34; sequences++) run(sequences);
    expect(seen.disposed).toBe(1);
    expect(device.memory().inUse).toBeGreaterThan(held);
    cache.dispose();
    expect(device.memory().inUse).toBeLessThan(held);
  });
});
