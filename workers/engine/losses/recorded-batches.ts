/**
 * Micro-batches of a few fixed sizes: padded to the next one, from input buffers that stay in place, so that forward and
 * backward can be recorded once a size and run again. What padding adds has no label, so it changes no loss, and its
 * gradient is zero. Knows what a supervised micro-batch reads; must not know what is computed from it.
 */
import { RecordedShapes, type Recorder } from '../graphs.ts';
import type { Model } from '../models/model.ts';
import type { PackedBatch, PackedInputs } from '../models/packed.ts';
import { positionCount } from '../models/rope-table.ts';
import type { RowLosses } from '../ops/cross-entropy.ts';
import { keep, Tensor } from '../tensor.ts';
import type { LabelledRows } from './head.ts';

/** A micro-batch on the device, with everything that differs from one to the next. */
export interface LabelledInputs extends PackedInputs {
  /** i32 [N], what the rows predict. */
  targets: Tensor;
  /** f32 [N], the rows' weights in the gradient. */
  rowScale: Tensor;
}

/** Sizes are multiples of this at least, an eighth of a power of two beyond: at most a quarter more tokens or rows. */
const SIZE_STEP = 64;
const SEQUENCES_MIN = 16;
/** Shapes remembered: graphs of a thousand launches take megabytes. */
const SHAPES_MAX = 48;
/** Larger micro-batches are never worth recording. */
const TOKENS_MAX = 4096;
/** Buffers begin at multiples of so many elements of 4 bytes, as allocations do. */
const ALIGN = 64;
/** The target of rows that only fill up. */
const ANY_TARGET = 0;

/** What asking for one launch takes on the host, and what a device multiplies at in a small model. */
const LAUNCH_SECONDS = 5e-6;
const DEVICE_FLOPS = 4e14;
/** Launches of a block forward and backward; seven linears with a low-rank branch each, or without. */
const BLOCK_LAUNCHES = { adapted: 74, plain: 46 };

/** The size that `count` tokens or rows are padded to. */
export function paddedSize(count: number): number {
  const step = Math.max(SIZE_STEP, 2 ** (Math.ceil(Math.log2(count)) - 3));
  return Math.ceil(count / step) * step;
}

/**
 * Tokens of a micro-batch, a padded size, up to which asking for its ops takes longer than half of what they run for, so
 * that recording pays; beyond it the device is busy anyway. 0: it never pays.
 */
export function tokensWorthRecording(model: Model): number {
  const isFull = model.adapter === null;
  const launches = model.config.layers * (isFull ? BLOCK_LAUNCHES.plain : BLOCK_LAUNCHES.adapted);
  const flopsPerToken = (isFull ? 6 : 4) * model.counts().total;
  const tokens = Math.min((2 * launches * LAUNCH_SECONDS * DEVICE_FLOPS) / flopsPerToken, TOKENS_MAX);
  for (let size = TOKENS_MAX; size >= SIZE_STEP; size -= SIZE_STEP)
    if (size <= tokens && paddedSize(size) === size) return size;
  return 0;
}

interface Size {
  tokens: number;
  sequences: number;
  rows: number;
}

interface Shape {
  inputs: Omit<LabelledInputs, 'rotary'>;
  results: RowLosses;
  dispose(): void;
}

export class RecordedBatches {
  readonly #model: Model;
  readonly #work: (inputs: LabelledInputs) => RowLosses;
  readonly #shapes: RecordedShapes<Shape>;
  readonly #tokensMax: number;
  /** All inputs of a micro-batch end to end, so that one write fills them. */
  readonly #integers: Int32Array<ArrayBuffer>;
  readonly #buffer: Tensor;
  readonly #results: RowLosses;

  /**
   * @param work forward and backward of a micro-batch; it may depend on nothing else that changes
   * @param recorder null: micro-batches are padded all the same, so that their numbers are
   * @param tokensMax a padded size; larger micro-batches are not for this. @throws code LATHE_OUT_OF_MEMORY
   */
  constructor(
    model: Model,
    work: (inputs: LabelledInputs) => RowLosses,
    { recorder, tokensMax }: { recorder: Recorder | null; tokensMax: number },
  ) {
    const { device } = model;
    this.#model = model;
    this.#work = work;
    this.#shapes = new RecordedShapes(recorder, SHAPES_MAX);
    this.#tokensMax = tokensMax;
    const most = { tokens: tokensMax, sequences: sequencesFor(tokensMax + 1), rows: tokensMax };
    this.#integers = new Int32Array(layoutOf(most).end);
    this.#buffer = keep(Tensor.fromInt32(device, this.#integers));
    this.#results = {
      losses: keep(Tensor.zeros(device, [tokensMax], 'f32')),
      correct: keep(Tensor.zeros(device, [tokensMax], 'i32')),
    };
  }

  /** Micro-batch sizes that are recorded now. */
  get recorded(): number {
    return this.#shapes.recorded;
  }

  /** Whether a micro-batch is small enough: a matter of its size alone, so that every run decides alike. */
  takes({ ids }: PackedBatch): boolean {
    return ids.length > 0 && paddedSize(ids.length) <= this.#tokensMax;
  }

  /**
   * The work on a batch that is taken, every labelled row weighing `scale`; of the results the first labels.rows.length
   * are the rows', until the next call. @throws RangeError for ids, targets, positions or bounds that a recorded run
   * could not check
   */
  run(batch: PackedBatch, labels: LabelledRows, scale: number): RowLosses {
    const { config, rope } = this.#model;
    const size: Size = {
      tokens: paddedSize(batch.ids.length),
      sequences: sequencesFor(batch.cuSeqlens.length),
      rows: paddedSize(labels.rows.length),
    };
    const positions = Math.min(size.tokens, config.maxPositionEmbeddings);
    checkBatch(batch, labels, config.vocabSize, positions);
    this.#write(batch, labels, scale, size);
    const { results } = this.#shapes.run(
      Object.values(size).join(' '),
      () => this.#create(size),
      (shape) => {
        const made = this.#work({ ...shape.inputs, rotary: rope.covering(positions) });
        const { native } = this.#model.device;
        native.copy(shape.results.losses.handle, made.losses.handle);
        native.copy(shape.results.correct.handle, made.correct.handle);
      },
    );
    return results;
  }

  dispose(): void {
    this.#shapes.forget();
    for (const tensor of [this.#buffer, this.#results.losses, this.#results.correct]) tensor.dispose();
  }

  #create({ tokens, sequences, rows }: Size): Shape {
    const { device } = this.#model;
    const at = layoutOf({ tokens, sequences, rows });
    const views: Tensor[] = [];
    const hold = (tensor: Tensor) => {
      views.push(keep(tensor));
      return tensor;
    };
    const integers = (start: number, count: number) => hold(this.#buffer.rows(start, start + count));
    const weights = device.native.tensorView(this.#buffer.handle, 4 * at.rowScale, [rows], 'f32');
    return {
      inputs: {
        ids: integers(at.ids, tokens),
        positions: integers(at.positions, tokens),
        cuSeqlens: integers(at.cuSeqlens, sequences + 1),
        rows: integers(at.rows, rows),
        targets: integers(at.targets, rows),
        rowScale: hold(new Tensor(device, weights, [rows], 'f32')),
      },
      results: {
        losses: hold(this.#results.losses.rows(0, rows)),
        correct: hold(this.#results.correct.rows(0, rows)),
      },
      dispose: () => {
        for (const tensor of views) tensor.dispose();
      },
    };
  }

  /** Tokens that fill up are one more sequence, sequences that fill up are empty, rows any others, with weight 0. */
  #write(batch: PackedBatch, labels: LabelledRows, scale: number, size: Size): void {
    const at = layoutOf(size);
    const integers = this.#integers.subarray(0, at.end).fill(0);
    integers.set(batch.ids, at.ids);
    // Different ids: the gradient of an embedding adds the rows of one id one after the other.
    for (let t = batch.ids.length; t < size.tokens; t++)
      integers[at.ids + t] = t % this.#model.config.vocabSize;
    integers.set(batch.positions, at.positions);
    integers.fill(size.tokens, at.cuSeqlens, at.cuSeqlens + size.sequences + 1);
    integers.set(batch.cuSeqlens, at.cuSeqlens);
    integers.set(labels.rows, at.rows);
    integers.fill(ANY_TARGET, at.targets, at.targets + size.rows);
    integers.set(labels.targets, at.targets);
    const count = labels.rows.length;
    const labelled = new Uint8Array(size.tokens);
    for (const row of labels.rows) labelled[row] = 1;
    for (let token = size.tokens - 1, next = count; next < size.rows; token--)
      if (labelled[token] === 0) integers[at.rows + next++] = token;
    new Float32Array(integers.buffer, 4 * at.rowScale, size.rows).fill(scale, 0, count);
    this.#model.device.native.tensorWrite(this.#buffer.handle, integers);
  }
}

/** Bounds of the real sequences, of the one that fills up, and of empty ones: 2ⁿ sequences. */
function sequencesFor(bounds: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(SEQUENCES_MIN, bounds)));
}

/** Where each input begins in the buffer, in elements. */
function layoutOf({ tokens, sequences, rows }: Size) {
  let end = 0;
  const place = (elements: number) => {
    const start = end;
    end += Math.ceil(elements / ALIGN) * ALIGN;
    return start;
  };
  const [ids, positions, cuSeqlens] = [place(tokens), place(tokens), place(sequences + 1)];
  const [atRows, targets, rowScale] = [place(rows), place(rows), place(rows)];
  return { ids, positions, cuSeqlens, rows: atRows, targets, rowScale, end };
}

/** Refuses indices that would read or write outside the model or the batch: a recorded run checks nothing. */
function checkBatch(batch: PackedBatch, labels: LabelledRows, vocabSize: number, positions: number): void {
  const { ids, cuSeqlens } = batch;
  const isToken = (id: number) => id >= 0 && id < vocabSize;
  if (batch.positions.length !== ids.length || cuSeqlens[0] !== 0 || cuSeqlens.at(-1) !== ids.length)
    throw new RangeError('a packed batch needs as many positions as ids, and bounds from 0 to their number');
  if (
    labels.targets.length !== labels.rows.length ||
    labels.rows.some((row) => !(row >= 0 && row < ids.length))
  )
    throw new RangeError('labels need a target for each row, and rows of the batch');
  if (cuSeqlens.some((bound, s) => s > 0 && bound < cuSeqlens[s - 1]!))
    throw new RangeError('the bounds of sequences must not fall');
  const bad = ids.find((id) => !isToken(id)) ?? labels.targets.find((id) => !isToken(id));
  if (bad !== undefined) throw new RangeError(`token id ${bad} is outside the vocabulary of ${vocabSize}`);
  if (batch.positions.some((position) => position < 0) || positionCount(batch.positions) > positions)
    throw new RangeError(`a position is outside the ${positions} of this batch`);
}
