/**
 * The next token of many choices at once, drawn where the logits are: only token ids and the log-probabilities that
 * were asked for come to the host. Knows samplers and the sampling op; must not know batches or models.
 */
import { readIntegersLater } from '../engine/deferred.ts';
import type { Device } from '../engine/device.ts';
import { scope, Tensor } from '../engine/tensor.ts';
import type { Draw, NoSample, Sample } from './sample.ts';
import type { Sampler } from './sampling.ts';

/** Columns of the op's settings; see sampleTokens in native/core/ops.h. */
const FLOATS = 4;
const INTS = 8;
const NO_ROW = -1;
/** What the op writes in place of a token. */
const REFUSALS = new Map<number, NoSample>([
  [-1, 'not-finite'],
  [-2, 'dead-end'],
]);

/**
 * Samples row i of `logits` f32 [N, V], which it changes, for sampler i; null where there is none. Only the first
 * `vocabulary` tokens can be drawn. Masks are waited for here, while the device still computes the logits; `meanwhile`
 * is called when everything has been asked for and only the tokens are waited for.
 */
export function sampleOnDevice(
  logits: Tensor,
  samplers: readonly (Sampler | null)[],
  vocabulary: number,
  meanwhile?: () => void,
): (Sample | NoSample | null)[] {
  const draws = samplers.map((sampler) => sampler?.draw() ?? null);
  const ready = draws.map((draw) => (draw === null || typeof draw === 'string' ? null : draw));
  if (ready.every((draw) => draw === null))
    return draws.map((draw) => (typeof draw === 'string' ? draw : null));
  const { tokens, logprobs, top, width } = runOp(logits, ready, vocabulary, meanwhile);
  return draws.map((draw, row) => {
    if (draw === null || typeof draw === 'string') return draw;
    const token = tokens[row]!;
    if (token < 0) return REFUSALS.get(token)!;
    samplers[row]!.drawn(token);
    if (!draw.sampling.logprobs) return { token, logprob: 0, top: [] };
    const best: [number, number][] = [];
    for (let i = 0; i < draw.sampling.top_logprobs; i++) {
      const logprob = logprobs[row * (width + 1) + 1 + i]!;
      // Forbidden tokens have no probability, and JSON has no word for its logarithm.
      if (Number.isFinite(logprob)) best.push([top[row * width + i]!, logprob]);
    }
    return { token, logprob: logprobs[row * (width + 1)]!, top: best };
  });
}

/** Rows without a draw are drawn too, greedily, and thrown away. */
function runOp(logits: Tensor, draws: readonly (Draw | null)[], vocabulary: number, meanwhile?: () => void) {
  const { device } = logits;
  const rows = draws.length;
  const wanted = draws.filter((draw) => draw?.sampling.logprobs);
  const width = Math.max(1, ...wanted.map((draw) => draw!.sampling.top_logprobs));
  const words = wanted.length === 0 ? rows : rows * (1 + 2 * width + 1);
  return scope(() => {
    const result = Tensor.empty(device, [words], 'i32');
    const part = (start: number, shape: number[], dtype: 'i32' | 'f32') => {
      const handle = device.native.tensorView(result.handle, 4 * start, shape, dtype);
      return new Tensor(device, handle, shape, dtype);
    };
    const top = wanted.length === 0 ? null : part(rows, [rows, width], 'i32');
    const logprobs = wanted.length === 0 ? null : part(rows * (1 + width), [rows, width + 1], 'f32');
    const settings = settingsOf(device, draws);
    const offsets = offsetsOf(device, draws);
    const mask = maskOf(device, draws, Math.ceil(vocabulary / 32));
    device.native.sampleTokens(
      part(0, [rows], 'i32').handle,
      logprobs?.handle ?? null,
      top?.handle ?? null,
      logits.handle,
      settings.floats.handle,
      settings.ints.handle,
      offsets?.bounds.handle ?? null,
      offsets?.tokens.handle ?? null,
      offsets?.values.handle ?? null,
      null,
      mask?.handle ?? null,
      vocabulary,
    );
    const arriving = readIntegersLater(result);
    meanwhile?.();
    const read = arriving.read();
    return {
      tokens: read.subarray(0, rows),
      top: read.subarray(rows, rows * (1 + width)),
      logprobs: new Float32Array(read.buffer, 4 * Math.min(words, rows * (1 + width))),
      width,
    };
  });
}

function settingsOf(device: Device, draws: readonly (Draw | null)[]): { floats: Tensor; ints: Tensor } {
  const floats = new Float32Array(draws.length * FLOATS);
  const ints = new Int32Array(draws.length * INTS);
  let maskRow = 0;
  draws.forEach((draw, row) => {
    ints.set([NO_ROW, NO_ROW], row * INTS + 6);
    if (draw === null) return;
    const { sampling, seed, choice, step, mask } = draw;
    floats.set([sampling.temperature, sampling.top_p, 0, 0], row * FLOATS);
    const stepAndRows = [step, NO_ROW, mask === null ? NO_ROW : maskRow++];
    ints.set([0, ...wordsOf(seed), ...wordsOf(choice), ...stepAndRows], row * INTS);
  });
  return {
    floats: Tensor.fromFloat32(device, floats, [draws.length, FLOATS]),
    ints: Tensor.fromInt32(device, ints, [draws.length, INTS]),
  };
}

/** The low and the high 32 bits of a number, as uniformAt() takes them. */
function wordsOf(value: number): [low: number, high: number] {
  return [value | 0, Math.floor(value / 2 ** 32) | 0];
}

function offsetsOf(device: Device, draws: readonly (Draw | null)[]) {
  const bounds = new Int32Array(draws.length + 1);
  const tokens: number[] = [];
  const values: number[] = [];
  draws.forEach((draw, row) => {
    if (draw) {
      tokens.push(...draw.offsets.keys());
      values.push(...draw.offsets.values());
    }
    bounds[row + 1] = tokens.length;
  });
  if (tokens.length === 0) return null;
  return {
    bounds: Tensor.fromInt32(device, bounds),
    tokens: Tensor.fromInt32(device, Int32Array.from(tokens)),
    values: Tensor.fromFloat32(device, Float32Array.from(values), [values.length]),
  };
}

/** The masks that there are, one under the other, each of `words` words; what a mask leaves out is allowed. */
function maskOf(device: Device, draws: readonly (Draw | null)[], words: number): Tensor | null {
  const masks = draws.flatMap((draw) => (draw?.mask ? [draw.mask] : []));
  if (masks.length === 0) return null;
  const all = new Int32Array(masks.length * words).fill(-1);
  masks.forEach((mask, row) => {
    all.set(mask.subarray(0, words), row * words);
  });
  return Tensor.fromInt32(device, all, [masks.length, words]);
}
