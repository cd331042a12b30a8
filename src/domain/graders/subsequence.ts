/**
 * Length of the longest common subsequence, 32 cells of the table at a time (Hyyrö's bit-vector recurrence). Long
 * inputs let other work run in between.
 */
import { setImmediate as turn } from 'node:timers/promises';

/** Words computed between two turns of the event loop: a few milliseconds. */
const WORDS_PER_TURN = 500_000;

/** Cost: |a|·|b| / 32 word operations. Symbols are compared as Map keys. */
export async function longestCommonSubsequence(a: readonly string[], b: readonly string[]): Promise<number> {
  if (a.length === 0 || b.length === 0) return 0;
  const words = Math.ceil(a.length / 32);
  // Only symbols that both have need a mask, so memory stays within the smaller vocabulary.
  const positions = new Map<string, Uint32Array>();
  const wanted = new Set(b);
  for (const [i, symbol] of a.entries()) {
    if (!wanted.has(symbol)) continue;
    let mask = positions.get(symbol);
    if (!mask) {
      mask = new Uint32Array(words);
      positions.set(symbol, mask);
    }
    mask[i >>> 5]! |= 1 << (i & 31);
  }
  const state = new Uint32Array(words).fill(0xffff_ffff);
  let spent = 0;
  for (const symbol of b) {
    const mask = positions.get(symbol);
    if (!mask) continue;
    step(state, mask);
    spent += words;
    if (spent > WORDS_PER_TURN) {
      spent = 0;
      await turn();
    }
  }
  let zeros = 0;
  for (let i = 0; i < a.length; i++) if (((state[i >>> 5]! >>> (i & 31)) & 1) === 0) zeros += 1;
  return zeros;
}

/** S ← (S + (S & M)) | (S & ~M), with the carry of the sum from word to word. */
function step(state: Uint32Array, mask: Uint32Array): void {
  let carry = 0;
  for (let w = 0; w < state.length; w++) {
    const s = state[w]!;
    const u = (s & mask[w]!) >>> 0;
    const sum = s + u + carry;
    carry = sum > 0xffff_ffff ? 1 : 0;
    state[w] = (sum >>> 0) | (s & ~mask[w]!);
  }
}
