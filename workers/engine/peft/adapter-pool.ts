/**
 * Adapters side by side in one tensor, as linearGroup reads them: a slot per adapter, and for every group of linears
 * that share their input a table {A, B, rank, scale} by slot. Serving another adapter writes data and moves nothing.
 * Must not know requests or batches.
 */
import type { Model } from '../models/model.ts';
import type { Linear } from '../models/weights.ts';
import { BYTES_PER_ELEMENT, type FloatDType, keep, scope, Tensor } from '../tensor.ts';
import type { LoraAdapter } from './lora.ts';

/** Places in the pool are counted in units of so many elements; ranks are padded to multiples of it. */
const UNIT = 8;
/** {A, B, rank, bits of scale} */
const ENTRY = 4;

export interface AdapterPoolOptions {
  /** Adapters held at once; one step can use so many. */
  slots: number;
  /** What all slots together may take. */
  maxBytes: number;
  /** As the model's activations unless given. */
  dtype?: FloatDType;
}

/** The adapter cannot be held; the message says why and in what figures. */
export class AdapterPoolError extends Error {
  override name = 'AdapterPoolError';
}

interface Slot {
  adapter: LoraAdapter | null;
  /** Number of the step that used it last. */
  used: number;
}

export class AdapterPool {
  /** Rises whenever the pool has moved: what was recorded before reads the old one. */
  generation = 0;
  readonly #model: Model;
  readonly #linears: readonly Linear[];
  readonly #dtype: FloatDType;
  readonly #maxBytes: number;
  readonly #slots: Slot[];
  readonly #table: Tensor;
  /** The table as the host knows it: per group, [slots, linears of the group, 4]. */
  readonly #entries: Int32Array;
  readonly #groups = new Map<string, Tensor>();
  #pool: Tensor | null = null;
  #slotElements = 0;
  #step = 0;

  /** Takes the table's memory; the pool's with the first adapter. */
  constructor(model: Model, { slots, maxBytes, dtype }: AdapterPoolOptions) {
    if (slots < 1) throw new Error('adapter pool: slots must be >= 1');
    this.#model = model;
    this.#linears = model.linears();
    this.#dtype = dtype ?? model.activationDtype;
    this.#maxBytes = maxBytes;
    this.#slots = Array.from({ length: slots }, () => ({ adapter: null, used: 0 }));
    this.#entries = new Int32Array(slots * this.#linears.length * ENTRY);
    this.#table = keep(Tensor.fromInt32(model.device, this.#entries));
  }

  /** Adapters that can be in place at once. */
  get slots(): number {
    return this.#slots.length;
  }

  /** All adapters' values; null until the first adapter was placed. */
  get pool(): Tensor | null {
    return this.#pool;
  }

  /** Bytes that the slots take now. */
  get bytes(): number {
    return this.#pool?.bytes ?? 0;
  }

  /** i32 [slots, layers.length, 4] of linears that follow one another in the model and share their input. */
  table(layers: readonly Linear[]): Tensor {
    const first = layers[0]!.index;
    const key = `${first}+${layers.length}`;
    let view = this.#groups.get(key);
    if (view === undefined) {
      const slots = this.#slots.length;
      const [start, end] = [first, first + layers.length].map((index) => index * slots * ENTRY);
      view = scope(() => keep(this.#table.rows(start!, end!).reshape([slots, layers.length, ENTRY])));
      this.#groups.set(key, view);
    }
    return view;
  }

  /** @throws AdapterPoolError when the adapter could never be placed */
  check(adapter: LoraAdapter): void {
    const bytes = this.#elementsOf(adapter) * BYTES_PER_ELEMENT[this.#dtype];
    const most = Math.floor(this.#maxBytes / this.#slots.length);
    if (bytes > most)
      throw new AdapterPoolError(
        `the adapter takes ${bytes} bytes; each of ${this.#slots.length} adapters in memory may take ${most}`,
      );
  }

  /**
   * The slots of one step's adapters, all of them in place; those that are not are written over the ones that were not
   * used for longest.
   * @throws AdapterPoolError; code LATHE_OUT_OF_MEMORY when the pool cannot grow, with what it held still in place
   */
  slotsOf(adapters: readonly LoraAdapter[]): number[] {
    const wanted = new Set(adapters);
    if (wanted.size > this.#slots.length)
      throw new AdapterPoolError(
        `a step of ${wanted.size} adapters; the pool has ${this.#slots.length} slots`,
      );
    this.#step++;
    for (const slot of this.#slots) if (slot.adapter && wanted.delete(slot.adapter)) slot.used = this.#step;
    for (const adapter of wanted) this.#place(adapter);
    return adapters.map((adapter) => this.#slots.findIndex((slot) => slot.adapter === adapter));
  }

  /** Adapters in place now. */
  get residents(): LoraAdapter[] {
    return this.#slots.flatMap(({ adapter }) => (adapter ? [adapter] : []));
  }

  dispose(): void {
    for (const view of this.#groups.values()) view.dispose();
    this.#groups.clear();
    this.#table.dispose();
    this.#pool?.dispose();
    this.#pool = null;
  }

  #place(adapter: LoraAdapter): void {
    this.check(adapter);
    const elements = this.#elementsOf(adapter);
    if (this.#pool === null || elements > this.#slotElements) this.#grow(elements);
    const ages = this.#slots.map(({ adapter: held, used }) => (held === null || isGone(held) ? -1 : used));
    const oldest = ages.indexOf(Math.min(...ages));
    const slot = this.#slots[oldest]!;
    slot.adapter = null;
    scope(() => this.#write(oldest, adapter));
    this.#model.device.native.tensorWrite(this.#table.handle, this.#entries);
    Object.assign(slot, { adapter, used: this.#step });
  }

  #elementsOf(adapter: LoraAdapter): number {
    return this.#linears.reduce((sum, { index, inFeatures, outFeatures }) => {
      const branch = adapter.branch(index);
      return sum + (branch ? padded(branch.a.dim(0)) * (inFeatures + outFeatures) : 0);
    }, 0);
  }

  /** A larger pool with the old one's adapters in it. */
  #grow(elements: number): void {
    const slots = this.#slots.length;
    const [before, after] = [this.#slotElements, Math.max(elements, UNIT)];
    const grown = keep(Tensor.empty(this.#model.device, [slots * after], this.#dtype));
    const old = this.#pool;
    if (old !== null) {
      scope(() => {
        for (let slot = 0; slot < slots; slot++) {
          const to = grown.rows(slot * after, slot * after + before);
          this.#model.device.native.copy(to.handle, old.rows(slot * before, (slot + 1) * before).handle);
        }
      });
      old.dispose();
    }
    for (let slot = 0; slot < slots; slot++) {
      const moved = (slot * (after - before)) / UNIT;
      for (const layer of this.#linears) {
        const at = this.#entryAt(slot, layer);
        if (this.#entries[at + 2] === 0) continue;
        this.#entries[at]! += moved;
        this.#entries[at + 1]! += moved;
      }
    }
    this.#pool = grown;
    this.#slotElements = after;
    this.generation++;
    this.#model.device.native.tensorWrite(this.#table.handle, this.#entries);
  }

  #write(slot: number, adapter: LoraAdapter): void {
    let at = slot * this.#slotElements;
    for (const layer of this.#linears) {
      const entry = this.#entries.subarray(this.#entryAt(slot, layer)).subarray(0, ENTRY);
      const branch = adapter.branch(layer.index);
      if (branch === null) {
        entry.fill(0);
        continue;
      }
      const rank = padded(branch.a.dim(0));
      const bits = new Int32Array(Float32Array.of(branch.scale).buffer)[0]!;
      entry.set([at / UNIT, (at + rank * layer.inFeatures) / UNIT, rank, bits]);
      this.#store(at, paddedRows(branch.a, rank));
      this.#store(at + rank * layer.inFeatures, paddedColumns(branch.b, rank));
      at += rank * (layer.inFeatures + layer.outFeatures);
    }
  }

  #store(at: number, values: Tensor): void {
    const place = this.#pool!.rows(at, at + values.size).reshape(values.shape);
    const { native } = this.#model.device;
    if (values.dtype === this.#dtype) native.copy(place.handle, values.handle);
    else native.cast(place.handle, values.handle);
  }

  /** Tables of groups lie end to end; linears of a group alternate within a slot. */
  #entryAt(slot: number, layer: Linear): number {
    const { first, count } = groupOf(this.#model, layer);
    return (first * this.#slots.length + slot * count + (layer.index - first)) * ENTRY;
  }
}

/** The linears of a block that read the same input: q, k, v; o; gate, up; down. */
export function linearGroups(block: Model['weights']['blocks'][number]): Linear[][] {
  return [[block.q, block.k, block.v], [block.o], [block.gate, block.up], [block.down]];
}

function groupOf(model: Model, layer: Linear): { first: number; count: number } {
  const blocks = model.weights.blocks;
  const perBlock = model.linears().length / blocks.length;
  const group = linearGroups(blocks[Math.floor(layer.index / perBlock)]!).find((g) => g.includes(layer))!;
  return { first: group[0]!.index, count: group.length };
}

/** Whether whoever loaded the adapter has let it go: no step will ask for it again. */
function isGone(adapter: LoraAdapter): boolean {
  return [...adapter.parameters().values()].some(({ disposed }) => disposed);
}

function padded(rank: number): number {
  return Math.ceil(rank / UNIT) * UNIT;
}

/** [r, in] with rows of zeros to [rank, in]. */
function paddedRows(a: Tensor, rank: number): Tensor {
  const [r, columns] = [a.dim(0), a.dim(1)];
  if (r === rank) return a;
  const values = new Float32Array(rank * columns);
  values.set(a.toFloat32());
  return Tensor.fromFloat32(a.device, values, [rank, columns]);
}

/** [out, r] with columns of zeros to [out, rank]. */
function paddedColumns(b: Tensor, rank: number): Tensor {
  const [rows, r] = [b.dim(0), b.dim(1)];
  if (r === rank) return b;
  const given = b.toFloat32();
  const values = new Float32Array(rows * rank);
  for (let row = 0; row < rows; row++) values.set(given.subarray(row * r, (row + 1) * r), row * rank);
  return Tensor.fromFloat32(b.device, values, [rows, rank]);
}
