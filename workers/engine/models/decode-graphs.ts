/**
 * Decode steps as recorded graphs: one new token for each of a few sequences, the same work every time but for the
 * numbers in a handful of small tensors. The first step of a shape runs op by op, the second is recorded, later ones are
 * replayed. Knows the paged forward; must not know the scheduler.
 */
import type { Recorder, Replay } from '../graphs.ts';
import type { LoraAdapter } from '../peft/lora.ts';
import { keep, scope, Tensor } from '../tensor.ts';
import type { KvCache } from './kv-cache.ts';
import type { Model } from './model.ts';
import { type AdapterRange, type PagedBatch, type PagedInputs, runPaged } from './paged.ts';
import { positionCount } from './rope-table.ts';

/** More sequences than this keep the device busy without recording. */
const SEQUENCES_MAX = 64;
/** Shapes remembered: each keeps its activations' memory. */
const SHAPES_MAX = 32;

interface Shape {
  inputs: PagedInputs;
  adapters: AdapterRange[];
  logits: Tensor;
  maxBlocks: number;
  replay: Replay | null;
}

export class DecodeGraphs {
  readonly #model: Model;
  readonly #cache: KvCache;
  readonly #recorder: Recorder;
  /** Least recently used first. */
  readonly #shapes = new Map<string, Shape>();
  readonly #adapterIds = new WeakMap<LoraAdapter, number>();
  #nextAdapter = 1;

  /** Lives as long as the cache, which disposes it. */
  constructor(model: Model, cache: KvCache, recorder: Recorder) {
    this.#model = model;
    this.#cache = cache;
    this.#recorder = recorder;
    cache.companions.push(this);
  }

  /** The batch's logits, or null when it is not a decode step: prompts differ too much to be worth recording. */
  logits(batch: PagedBatch): Float32Array | null {
    const sequences = batch.contextLens.length;
    const isDecode = batch.ids.length === sequences && batch.logitRows.length === sequences;
    if (!isDecode || sequences > SEQUENCES_MAX || batch.logitRows.some((row, i) => row !== i)) return null;
    const maxBlocks = 2 ** Math.ceil(Math.log2(Math.max(1, batch.maxBlocks)));
    // A table that has grown is another tensor: what was recorded would read beyond the old one.
    const rotaryRows = this.#model.rope.covering(positionCount(batch.positions)).cos.dim(0);
    const key = [
      sequences,
      maxBlocks,
      rotaryRows,
      ...batch.adapters.map((range) => this.#nameOf(range)),
    ].join();
    const known = this.#shapes.get(key);
    const shape = known ?? this.#create(batch, maxBlocks);
    this.#shapes.delete(key);
    this.#shapes.set(key, shape);
    write(shape, batch);
    const work = () =>
      scope(() => runPaged(this.#model, shape.inputs, shape.adapters, this.#cache, rotaryRows, shape.logits));
    if (known === undefined) {
      try {
        work();
      } catch (error) {
        // Recording needs a step that has run: it finds everything chosen, loaded and allocated.
        this.#shapes.delete(key);
        disposeShape(shape);
        throw error;
      }
      this.#forgetOldest();
    } else {
      shape.replay ??= this.#recorder.record(work);
      shape.replay.run();
    }
    return shape.logits.toFloat32();
  }

  dispose(): void {
    for (const shape of this.#shapes.values()) disposeShape(shape);
    this.#shapes.clear();
  }

  #create(batch: PagedBatch, maxBlocks: number): Shape {
    const { device, config } = this.#model;
    const sequences = batch.contextLens.length;
    const numbers = (values: Int32Array) => keep(Tensor.fromInt32(device, values));
    return {
      inputs: {
        ids: numbers(batch.ids),
        positions: numbers(batch.positions),
        cuSeqlensQ: numbers(batch.cuSeqlensQ),
        contextLens: numbers(batch.contextLens),
        slots: numbers(batch.slots),
        logitRows: numbers(batch.logitRows),
        blockTables: keep(
          Tensor.fromInt32(device, new Int32Array(sequences * maxBlocks), [sequences, maxBlocks]),
        ),
      },
      adapters: batch.adapters.map((range) => ({ ...range })),
      logits: keep(Tensor.empty(device, [sequences, config.vocabSize], 'f32')),
      maxBlocks,
      replay: null,
    };
  }

  #nameOf({ adapter, start, end }: AdapterRange): string {
    if (adapter === null) return `base:${start}-${end}`;
    let id = this.#adapterIds.get(adapter);
    if (id === undefined) {
      id = this.#nextAdapter++;
      this.#adapterIds.set(adapter, id);
    }
    return `${id}:${start}-${end}`;
  }

  #forgetOldest(): void {
    const [oldest] = this.#shapes;
    if (oldest === undefined || this.#shapes.size <= SHAPES_MAX) return;
    this.#shapes.delete(oldest[0]);
    disposeShape(oldest[1]);
  }
}

function disposeShape({ inputs, logits, replay }: Shape): void {
  replay?.dispose();
  logits.dispose();
  for (const tensor of Object.values(inputs)) (tensor as Tensor).dispose();
}

/** What changes from step to step; bounds and logit rows follow from the shape. */
function write({ inputs, maxBlocks }: Shape, batch: PagedBatch): void {
  const { native } = inputs.ids.device;
  native.tensorWrite(inputs.ids.handle, batch.ids);
  native.tensorWrite(inputs.positions.handle, batch.positions);
  native.tensorWrite(inputs.contextLens.handle, batch.contextLens);
  native.tensorWrite(inputs.slots.handle, batch.slots);
  const tables = new Int32Array(batch.contextLens.length * maxBlocks);
  for (let s = 0; s < batch.contextLens.length; s++) {
    tables.set(batch.blockTables.subarray(s * batch.maxBlocks, (s + 1) * batch.maxBlocks), s * maxBlocks);
  }
  native.tensorWrite(inputs.blockTables.handle, tables);
}
