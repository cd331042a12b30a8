import { tmpdir } from 'node:os';
import { describe, expect, it, vi } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { KvCache } from '../../workers/engine/models/kv-cache.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import type { PagedBatch } from '../../workers/engine/models/paged.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { generateNaive } from '../helpers/generate-naive.ts';
import { disposeAfterEach, ownFolder } from '../helpers/owned.ts';
import { argmax } from '../helpers/sample-naive.ts';
import { packSequences, randomIds, relativeError, tinyModel, VOCABULARY } from './tiny.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

const BLOCK_SIZE = 4;
const BLOCKS_EACH = 12;

/** A sequence with its own shuffled blocks of the cache and the number of tokens already in it. */
interface Sequence {
  ids: number[];
  cached: number;
  blocks: number[];
  adapter: LoraAdapter | null;
}

/** Sequence `n` owns every third block or so, in falling order: neighbours in time are not neighbours in memory. */
function sequence(
  n: number,
  count: number,
  ids: Iterable<number>,
  adapter: LoraAdapter | null = null,
): Sequence {
  const blocks = Array.from({ length: BLOCKS_EACH }, (_, i) => (BLOCKS_EACH - 1 - i) * count + n);
  return { ids: [...ids], cached: 0, blocks, adapter };
}

/** The batch that feeds `tokens(n)` new tokens of each sequence, wanting the logits of each one's last. */
function batchOf(sequences: readonly Sequence[], tokens: (s: Sequence) => number): PagedBatch {
  const [ids, positions, slots, bounds, logitRows] = [[], [], [], [0], []] as number[][] as [
    number[],
    number[],
    number[],
    number[],
    number[],
  ];
  const adapters: PagedBatch['adapters'] = [];
  for (const s of sequences) {
    const start = ids.length;
    for (let position = s.cached; position < s.cached + tokens(s); position++) {
      ids.push(s.ids[position]!);
      positions.push(position);
      slots.push(s.blocks[Math.floor(position / BLOCK_SIZE)]! * BLOCK_SIZE + (position % BLOCK_SIZE));
    }
    bounds.push(ids.length);
    logitRows.push(ids.length - 1);
    adapters.push({ adapter: s.adapter, start, end: ids.length });
  }
  return {
    ids: Int32Array.from(ids),
    positions: Int32Array.from(positions),
    cuSeqlensQ: Int32Array.from(bounds),
    contextLens: Int32Array.from(sequences, (s) => s.cached + tokens(s)),
    blockTables: Int32Array.from(sequences.flatMap((s) => s.blocks)),
    maxBlocks: BLOCKS_EACH,
    slots: Int32Array.from(slots),
    logitRows: Int32Array.from(logitRows),
    adapters,
  };
}

/** Feeds the tokens and returns one row of logits per sequence. */
function feed(model: Model, cache: KvCache, sequences: readonly Sequence[], tokens: (s: Sequence) => number) {
  const logits = model.forwardPaged(batchOf(sequences, tokens), cache);
  for (const s of sequences) s.cached += tokens(s);
  return sequences.map((_, n) => logits.slice(n * VOCABULARY, (n + 1) * VOCABULARY));
}

function generate(model: Model, sequences: readonly Sequence[], count: number): number[][] {
  const cache = own(new KvCache(model, { blocks: BLOCKS_EACH * 4, blockSize: BLOCK_SIZE }));
  const starts = sequences.map((s) => s.ids.length);
  for (let step = 0; step < count; step++) {
    const rows = feed(model, cache, sequences, (s) => s.ids.length - s.cached);
    for (const [n, s] of sequences.entries()) s.ids.push(argmax(rows[n]!));
  }
  return sequences.map((s, n) => s.ids.slice(starts[n]));
}

function trainingLogits(model: Model, ids: ArrayLike<number>): Float32Array[] {
  const rows = Int32Array.from({ length: ids.length }, (_, i) => i);
  const logits = model.logits(packSequences([Int32Array.from(ids)]), rows);
  return [...rows].map((row) => logits.slice(row * VOCABULARY, (row + 1) * VOCABULARY));
}

function adapterFor(model: Model, seed: number, r = 4): LoraAdapter {
  const adapter = own(LoraAdapter.create(model, { ...LORA_DEFAULTS, r, lora_alpha: 2 * r }, seed));
  for (const [name, tensor] of adapter.parameters()) {
    if (name.includes('lora_B')) device.native.randomNormal(tensor.handle, 0, 0.2, seed, name.length);
  }
  return adapter;
}

async function serving(model: Model): Promise<Model> {
  const dir = ownFolder(own, 'lathe-paged-');
  await model.save(dir);
  return own(openModel(dir, device, { dtype: model.dtype, forServing: true }));
}

const VARIANTS: [string, Record<string, unknown>][] = [
  ['qwen3', {}],
  ['llama, untied', { model_type: 'llama', architectures: null, tie_word_embeddings: false }],
  [
    'qwen2, window 6',
    {
      model_type: 'qwen2',
      architectures: null,
      use_sliding_window: true,
      sliding_window: 6,
      max_window_layers: 1,
    },
  ],
];

describe('forwardPaged', () => {
  it.each(VARIANTS)(
    'equals the training forward: prefill, chunked prefill and decode (%s)',
    async (_, config) => {
      const model = own(tinyModel(device, { config, trainable: false }));
      const adapter = adapterFor(model, 3);
      model.attach(adapter);
      const ids = randomIds(40, 5);
      const expected = trainingLogits(model, ids);
      const served = await serving(model);
      for (const candidate of [model, served]) {
        for (const chunk of [40, 17, 1]) {
          const cache = own(new KvCache(candidate, { blocks: BLOCKS_EACH, blockSize: BLOCK_SIZE }));
          const s = sequence(0, 1, ids, adapter);
          while (s.cached < ids.length) {
            const [row] = feed(candidate, cache, [s], (one) => Math.min(chunk, one.ids.length - one.cached));
            expect(relativeError(row!, expected[s.cached - 1]!)).toBeLessThan(1e-5);
          }
        }
      }
    },
  );

  it('gives a sequence the same bytes alone and beside others', () => {
    const model = own(tinyModel(device, { trainable: false }));
    const prompts = [randomIds(11, 1), randomIds(3, 2), randomIds(19, 3)];
    const alone = prompts.map((ids) => {
      const cache = own(new KvCache(model, { blocks: BLOCKS_EACH, blockSize: BLOCK_SIZE }));
      return feed(model, cache, [sequence(0, 1, ids)], (s) => s.ids.length)[0];
    });
    const cache = own(new KvCache(model, { blocks: BLOCKS_EACH * 3, blockSize: BLOCK_SIZE }));
    expect(
      feed(
        model,
        cache,
        prompts.map((ids, n) => sequence(n, 3, ids)),
        (s) => s.ids.length,
      ),
    ).toEqual(alone);
  });

  it.each(['f32', 'bf16'] as const)(
    'batched with three adapters and the base generates what each does alone (%s)',
    async (dtype) => {
      const trained = own(tinyModel(device, { trainable: false, dtype }));
      const model = await serving(trained);
      const adapters = [adapterFor(model, 3), adapterFor(model, 4, 8), null, adapterFor(model, 5, 2)];
      const prompts = [randomIds(8, 11), randomIds(5, 12), randomIds(9, 13), randomIds(2, 14)];
      const together = generate(
        model,
        prompts.map((ids, n) => sequence(n, 4, ids, adapters[n])),
        20,
      );
      const apart = prompts.map((ids, n) => generate(model, [sequence(0, 1, ids, adapters[n])], 20)[0]);
      expect(together).toEqual(apart);
      expect(new Set(together.map((tokens) => tokens.join())).size).toBe(4);
      if (dtype === 'bf16') return;
      for (const [n, ids] of prompts.entries()) {
        const adapter = adapters[n];
        if (adapter) trained.attach(adapter);
        expect(generateNaive(trained, ids, { maxTokens: 20 })).toEqual(together[n]);
        trained.detach();
      }
    },
  );

  it('with B = 0 is the base exactly', () => {
    const model = own(tinyModel(device, { trainable: false }));
    const adapter = own(LoraAdapter.create(model, { ...LORA_DEFAULTS, r: 4 }, 1));
    const run = (with_: LoraAdapter | null) => {
      const cache = own(new KvCache(model, { blocks: BLOCKS_EACH, blockSize: BLOCK_SIZE }));
      return feed(model, cache, [sequence(0, 1, randomIds(21, 6), with_)], (s) => s.ids.length);
    };
    expect(run(adapter)).toEqual(run(null));
  });

  it('gives the bytes of the op-by-op forward in recorded decode steps', async () => {
    for (const dtype of ['f32', 'bf16'] as const) {
      const model = await serving(own(tinyModel(device, { trainable: false, dtype })));
      const adapters = [adapterFor(model, 3), null, adapterFor(model, 4, 8)];
      const [recorded, plain] = [0, 1].map(() => ({
        cache: own(new KvCache(model, { blocks: BLOCKS_EACH * 3, blockSize: BLOCK_SIZE })),
        sequences: adapters.map((adapter, n) => sequence(n, 3, randomIds(9, 20 + n), adapter)),
      })) as [{ cache: KvCache; sequences: Sequence[] }, { cache: KvCache; sequences: Sequence[] }];
      for (let step = 0; step < 9; step++) {
        // Rows of logits in another order are no decode step, so nothing is recorded of it.
        const batch = batchOf(plain.sequences, () => 1);
        const turned = model.forwardPaged({ ...batch, logitRows: batch.logitRows.toReversed() }, plain.cache);
        for (const s of plain.sequences) s.cached++;
        const expected = adapters.map((_, n) => turned.slice((2 - n) * VOCABULARY, (3 - n) * VOCABULARY));
        const launches = vi.spyOn(device.native, 'graphLaunch');
        expect(feed(model, recorded.cache, recorded.sequences, () => 1)).toEqual(expected);
        // The first step of a shape runs op by op.
        expect(launches).toHaveBeenCalledTimes(step === 0 ? 0 : 1);
        launches.mockRestore();
      }
    }
  });

  it('refuses adapter ranges that do not cover the rows in order', () => {
    const model = own(tinyModel(device, { trainable: false }));
    const cache = own(new KvCache(model, { blocks: BLOCKS_EACH, blockSize: BLOCK_SIZE }));
    const batch = batchOf([sequence(0, 1, randomIds(6, 6))], () => 6);
    const ranged = (adapters: PagedBatch['adapters']) => () =>
      model.forwardPaged({ ...batch, adapters }, cache);
    expect(ranged([{ adapter: null, start: 0, end: 5 }])).toThrow(/cover 5 of 6 rows/);
    expect(ranged([{ adapter: null, start: 1, end: 6 }])).toThrow(/should begin at row 0/);
  });

  it('leaks nothing, and a cache gives its memory back', () => {
    const model = own(tinyModel(device, { trainable: false }));
    model.rope.covering(10);
    const before = device.memory().inUse;
    const cache = new KvCache(model, { blocks: BLOCKS_EACH, blockSize: BLOCK_SIZE });
    expect(cache.bytes).toBe(BLOCKS_EACH * KvCache.bytesPerBlock(model, BLOCK_SIZE));
    const held = device.memory().inUse;
    feed(model, cache, [sequence(0, 1, randomIds(6, 6))], () => 6);
    expect(device.memory().inUse).toBe(held);
    cache.dispose();
    expect(device.memory().inUse).toBe(before);
  });
});

describe('a model opened for serving', () => {
  it('refuses what needs plain weights', async () => {
    const model = await serving(own(tinyModel(device)));
    const adapter = adapterFor(model, 1);
    const batch = packSequences([randomIds(5, 1)]);
    expect(() => model.logits(batch, Int32Array.of(1))).toThrow(/opened for serving/);
    await expect(model.save(tmpdir())).rejects.toThrow(/opened for serving/);
    expect(() => adapter.mergeInto(model)).toThrow(/opened for serving/);
  });
});
