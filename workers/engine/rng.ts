/**
 * Counter-based random numbers on the host: Philox4x32-10 (Salmon et al., SC'11), the generator that the native ops use
 * on the device. A number depends on (seed, stream, counter) alone, so there is no generator state to save.
 */

const MULTIPLIER_A = 0xd2511f53;
const MULTIPLIER_B = 0xcd9e8d57;
const WEYL_A = 0x9e3779b9;
const WEYL_B = 0xbb67ae85;

/** Four 32-bit words from a 128-bit counter and a 64-bit key (words are taken modulo 2³²). */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const low0 = Math.imul(MULTIPLIER_A, c0);
    const high0 = multiplyHigh(MULTIPLIER_A, c0);
    const low1 = Math.imul(MULTIPLIER_B, c2);
    const high1 = multiplyHigh(MULTIPLIER_B, c2);
    [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
    k0 = (k0 + WEYL_A) | 0;
    k1 = (k1 + WEYL_B) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** Upper 32 bits of the unsigned 64-bit product, from 16-bit halves (each partial sum stays below 2⁵³). */
function multiplyHigh(a: number, b: number): number {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, (b >>> 16) & 0xffff, b & 0xffff];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16) + ((aLow * bHigh) % 0x10000);
  return (aHigh * bHigh + Math.floor((aLow * bHigh) / 0x10000) + Math.floor(middle / 0x10000)) | 0;
}

/** A double in [0, 1) with 53 random bits, number `index` of stream (seed, stream). */
export function uniformAt(seed: number, stream: number, index: number): number {
  const [a, b] = philox4x32(
    [index | 0, Math.floor(index / 2 ** 32) | 0, stream | 0, Math.floor(stream / 2 ** 32) | 0],
    [seed | 0, Math.floor(seed / 2 ** 32) | 0],
  );
  return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53;
}

/** A stream number below 2⁴⁸ from a name: FNV-1a over its UTF-16 units, 48 bits. The same name gives the same stream. */
export function streamOf(name: string): number {
  let low = 0x811c9dc5;
  let high = 0x9dc5;
  for (let i = 0; i < name.length; i++) {
    low = Math.imul(low ^ name.charCodeAt(i), 0x01000193);
    high = Math.imul(high ^ (low >>> 16) ^ name.charCodeAt(i), 0x0193) & 0xffff;
  }
  return high * 2 ** 32 + (low >>> 0);
}

const LAYERS_MAX = 2 ** 14;
const MICRO_BATCHES_MAX = 2 ** 13;

/** The dropout stream of one linear in one micro-batch of one optimizer step; distinct for distinct arguments. */
export function dropoutStream(step: number, microBatch: number, linear: number): number {
  if (step < 0 || step >= 2 ** 26 || microBatch >= MICRO_BATCHES_MAX || linear >= LAYERS_MAX) {
    throw new RangeError(
      `dropout stream (step ${step}, micro-batch ${microBatch}, linear ${linear}) is out of range`,
    );
  }
  return (step * MICRO_BATCHES_MAX + microBatch) * LAYERS_MAX + linear;
}
