/**
 * One step of the model over many sequences on a device that works ahead of the host: adapters are slots of a pool,
 * decode steps run in fixed sizes that can be recorded, tokens are drawn on the device. Same contract as ModelRunner.
 * Knows batches, the model and its cache; must not know the queue or who asked.
 */
import type { Recorder } from '../engine/graphs.ts';
import { DECODE_ROWS_MAX, DecodeBuckets } from '../engine/models/decode-buckets.ts';
import {
  type GroupedInputs,
  type GroupedStep,
  groupedHidden,
  groupedLogits,
} from '../engine/models/grouped.ts';
import type { KvCache, Model } from '../engine/models/index.ts';
import { AdapterPool } from '../engine/peft/adapter-pool.ts';
import type { LoraAdapter } from '../engine/peft/lora.ts';
import { type FloatDType, scope, Tensor } from '../engine/tensor.ts';
import { sampleOnDevice } from './device-sampling.ts';
import { byAdapter, layOut, type RunItem, type Runner } from './model-runner.ts';
import type { NoSample, Sample } from './sample.ts';

export interface DeviceRunnerOptions {
  /** Only the first so many logits are sampled from. */
  vocabSize: number;
  /** Different adapters in one step at most. */
  adapterSlots: number;
  /** Memory of all adapters' copies that steps read. */
  adapterBytes: number;
  /** How those copies are stored; as the model's activations unless given. */
  adapterDtype?: FloatDType;
  /** False runs decode steps at their own size; for comparison. */
  padded?: boolean;
  /** How decode steps are recorded; the device's own way unless given. */
  recorder?: Recorder | null;
}

type Outcome = Sample | NoSample | null;

export class DeviceRunner implements Runner<LoraAdapter> {
  readonly pool: AdapterPool;
  readonly #model: Model;
  readonly #cache: KvCache;
  readonly #step: GroupedStep;
  readonly #buckets: DecodeBuckets;
  readonly #vocabSize: number;

  /**
   * `model` has plain weights (opened without `forServing`), `cache` SCRATCH_ROWS scratch rows.
   * @throws code LATHE_OUT_OF_MEMORY; nothing stays allocated then
   */
  constructor(model: Model, cache: KvCache, options: DeviceRunnerOptions) {
    const { adapterSlots, adapterBytes, vocabSize, padded, recorder } = options;
    if (model.linears().some(({ weight }) => weight === null))
      throw new Error('device runner: the model was opened for serving on the CPU and has no plain weights');
    this.#model = model;
    this.#cache = cache;
    this.#vocabSize = vocabSize;
    const contextLength = Math.min(model.config.maxPositionEmbeddings, cache.blocks * cache.blockSize);
    // As many rows as can ever be asked for: a table that grew would be another one than what was recorded.
    const rotary = model.rope.covering(contextLength);
    this.pool = new AdapterPool(model, {
      slots: adapterSlots,
      maxBytes: adapterBytes,
      dtype: options.adapterDtype,
    });
    this.#step = { model, cache, pool: this.pool, rotary };
    try {
      this.#buckets = new DecodeBuckets(this.#step, { contextLength, padded, recorder });
    } catch (error) {
      this.pool.dispose();
      throw error;
    }
  }

  /** @throws AdapterPoolError for an adapter that no step could use */
  check(adapter: LoraAdapter): void {
    this.pool.check(adapter);
  }

  get worksAhead(): boolean {
    return this.#model.device.worksAhead;
  }

  /** Decode steps that are recorded now. */
  get recorded(): number {
    return this.#buckets.recorded;
  }

  trim(): void {
    this.#model.device.native.trim();
  }

  dispose(): void {
    this.#buckets.dispose();
    this.pool.dispose();
  }

  run(items: readonly RunItem<LoraAdapter>[], meanwhile?: () => void): Outcome[] {
    const order = byAdapter(items);
    const ordered = order.map((index) => items[index]!);
    const adapterSlots = this.#adapterSlots(ordered);
    const isDecode =
      ordered.length <= DECODE_ROWS_MAX &&
      ordered.every(({ tokens, score }) => tokens.length === 1 && !score);
    const outcomes = scope(() =>
      isDecode
        ? this.#decode(ordered, adapterSlots, meanwhile)
        : this.#mixed(ordered, adapterSlots, meanwhile),
    );
    const samples = new Array<Outcome>(items.length).fill(null);
    order.forEach((index, i) => {
      samples[index] = outcomes[i]!;
    });
    return samples;
  }

  /** One token of each item. */
  #decode(
    items: readonly RunItem<LoraAdapter>[],
    adapterSlots: Int32Array | null,
    meanwhile?: () => void,
  ): Outcome[] {
    const logits = this.#buckets.run({ ...this.#layOut(items), adapterSlots });
    return sampleOnDevice(
      logits,
      items.map(({ sampler }) => sampler),
      this.#vocabSize,
      meanwhile,
    );
  }

  /** Prompts among the items, or more of them than a decode step takes. */
  #mixed(
    items: readonly RunItem<LoraAdapter>[],
    adapterSlots: Int32Array | null,
    meanwhile?: () => void,
  ): Outcome[] {
    const { device, config } = this.#model;
    const batch = this.#layOut(items);
    const numbers = (values: Int32Array) => Tensor.fromInt32(device, values);
    const inputs: GroupedInputs = {
      ids: numbers(batch.ids),
      positions: numbers(batch.positions),
      cuSeqlensQ: numbers(batch.cuSeqlensQ),
      contextLens: numbers(batch.contextLens),
      blockTables: Tensor.fromInt32(device, batch.blockTables, [items.length, batch.maxBlocks]),
      slots: numbers(batch.slots),
      adapterSlots: adapterSlots && numbers(adapterSlots),
    };
    const hidden = groupedHidden(this.#step, inputs);
    const logitsOf = (rows: readonly number[]) => {
      const logits = Tensor.empty(device, [rows.length, config.vocabSize], 'f32');
      groupedLogits(this.#model, hidden, numbers(Int32Array.from(rows)), logits);
      return logits;
    };
    items.forEach(({ score, start, tokens }, i) => {
      if (!score) return;
      const first = batch.cuSeqlensQ[i]!;
      const rows = scope(() => logitsOf([...tokens.keys()].map((t) => first + t)).toFloat32());
      for (const t of tokens.keys()) {
        const at = t * config.vocabSize;
        score(start + t, rows.subarray(at, at + this.#vocabSize));
      }
    });
    const sampled = [...items.keys()].filter((i) => items[i]!.sampler !== null);
    const outcomes = new Array<Outcome>(items.length).fill(null);
    if (sampled.length === 0) return outcomes;
    const drawn = sampleOnDevice(
      logitsOf(sampled.map((i) => batch.cuSeqlensQ[i + 1]! - 1)),
      sampled.map((i) => items[i]!.sampler),
      this.#vocabSize,
      meanwhile,
    );
    sampled.forEach((i, k) => {
      outcomes[i] = drawn[k]!;
    });
    return outcomes;
  }

  #layOut(items: readonly RunItem<LoraAdapter>[]) {
    return layOut(items, [...items.keys()], this.#cache.blockSize);
  }

  /** The pool slot of every token's adapter; null when all run on the base model. */
  #adapterSlots(items: readonly RunItem<LoraAdapter>[]): Int32Array | null {
    const adapters = items.flatMap(({ adapter }) => (adapter ? [adapter] : []));
    if (adapters.length === 0) return null;
    const slots = this.pool.slotsOf(adapters);
    let next = 0;
    const perToken = items.flatMap(({ adapter, tokens }) =>
      new Array<number>(tokens.length).fill(adapter ? slots[next++]! : -1),
    );
    return Int32Array.from(perToken);
  }
}
