/**
 * Byte-level byte-pair encoding: learns merges from text (Sennrich et al. 2016, over bytes as in GPT-2).
 * Knows no files; the tokenizer folder is written by scripts/tiny-tokenizer.ts.
 */

/**
 * GPT-2's printable stand-in for each byte: visible Latin-1 characters stand for themselves, the other 68 bytes are
 * moved to U+0100 and up in order, so a space becomes "Ġ" and a newline "Ċ".
 */
export function byteAlphabet(): string[] {
  const visible = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  let moved = 0;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(visible(b) ? b : 256 + moved++));
}

/** Splits text into the pieces that merges never cross: words with their space, single digits, punctuation runs. */
export const splitPattern =
  "'(?:s|t|re|ve|m|ll|d)| ?\\p{L}+| ?\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

interface Word {
  pieces: string[];
  count: number;
}

function countWords(texts: Iterable<string>): Word[] {
  const alphabet = byteAlphabet();
  const counts = new Map<string, number>();
  const pattern = new RegExp(splitPattern, 'gu');
  for (const text of texts) {
    for (const [piece] of text.matchAll(pattern)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return [...counts]
    .map(([piece, count]) => ({ pieces: Array.from(encoder.encode(piece), (b) => alphabet[b]!), count }))
    .sort((a, b) => b.count - a.count || (a.pieces.join('') < b.pieces.join('') ? -1 : 1));
}

function mergeIn(word: Word, left: string, right: string): void {
  const merged: string[] = [];
  for (let i = 0; i < word.pieces.length; i++) {
    if (word.pieces[i] === left && word.pieces[i + 1] === right) {
      merged.push(left + right);
      i++;
    } else merged.push(word.pieces[i]!);
  }
  word.pieces = merged;
}

/**
 * Learns `count` merges, the most frequent pair first (ties: the pair that sorts first).
 * @throws RangeError when the text has no pair left to merge.
 */
export function learnMerges(texts: Iterable<string>, count: number): [string, string][] {
  const words = countWords(texts);
  const pairCounts = new Map<string, number>();
  const wordsOfPair = new Map<string, Set<Word>>();
  const register = (word: Word, sign: 1 | -1) => {
    for (let i = 0; i + 1 < word.pieces.length; i++) {
      const pair = `${word.pieces[i]} ${word.pieces[i + 1]}`;
      pairCounts.set(pair, (pairCounts.get(pair) ?? 0) + sign * word.count);
      if (sign > 0) wordsOfPair.set(pair, (wordsOfPair.get(pair) ?? new Set()).add(word));
    }
  };
  for (const word of words) register(word, 1);
  const merges: [string, string][] = [];
  while (merges.length < count) {
    let best = '';
    let bestCount = 0;
    for (const [pair, n] of pairCounts) {
      if (n > bestCount || (n === bestCount && n > 0 && pair < best)) [best, bestCount] = [pair, n];
    }
    if (bestCount === 0) throw new RangeError(`only ${merges.length} of ${count} merges can be learned`);
    const [left, right] = best.split(' ') as [string, string];
    merges.push([left, right]);
    for (const word of [...wordsOfPair.get(best)!]) {
      register(word, -1);
      mergeIn(word, left, right);
      register(word, 1);
    }
    pairCounts.delete(best);
    wordsOfPair.delete(best);
  }
  return merges;
}
