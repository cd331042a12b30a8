/** The seeded order of an epoch: a permutation that depends on (n, seed, epoch) and nothing else. */

/** splitmix32 as a hash: every bit of the input reaches every bit of the output. */
function mix(value: number): number {
  let z = (value + 0x9e3779b9) >>> 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}

/** Uint32 [n]: the examples in the order in which this epoch visits them (Fisher–Yates). */
export function epochOrder(n: number, seed: number, epoch: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  let state = mix(mix(seed >>> 0) ^ mix((epoch + 0x51ed270b) >>> 0));
  for (let i = n - 1; i > 0; i--) {
    state = (state + 0x9e3779b9) >>> 0;
    // 53 random bits, so that large i keep equal chances
    const fraction = (mix(state) * 0x20_0000 + (mix(state ^ 0x5bd1e995) >>> 11)) / 0x20_0000_0000_0000;
    const j = Math.floor(fraction * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
