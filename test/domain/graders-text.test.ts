import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { stem } from '../../src/domain/graders/porter-stemmer.ts';
import { longestCommonSubsequence } from '../../src/domain/graders/subsequence.ts';
import { TEXT_MAX, TEXT_METRICS, textSimilarity } from '../../src/domain/graders/text-similarity.ts';
import { rougeTokens, wordTokens } from '../../src/domain/graders/tokenize.ts';

const golden = JSON.parse(
  readFileSync(path.join(import.meta.dirname, '../golden/text-metrics.json'), 'utf8'),
) as { pairs: Record<string, string | number>[]; stems: Record<string, string> };

describe('text similarity', () => {
  it.each(TEXT_METRICS)('%s is what its reference implementation says, within 1e-12', async (metric) => {
    const measured = golden.pairs.filter((pair) => metric in pair);
    expect(measured.length).toBeGreaterThan(50);
    for (const pair of measured) {
      const ours = await textSimilarity(metric, String(pair.input), String(pair.reference));
      expect(
        Math.abs(ours - Number(pair[metric])),
        `${metric} of ${JSON.stringify(pair)} is ${ours}`,
      ).toBeLessThan(1e-12);
    }
  });

  it('stems as NLTK does', () => {
    expect(Object.fromEntries(Object.keys(golden.stems).map((word) => [word, stem(word)]))).toEqual(
      golden.stems,
    );
  });

  it('takes Chinese and Japanese characters as words', async () => {
    expect(wordTokens('我有3个apples。')).toEqual(['我', '有', '3', '个', 'apples', '。']);
    expect(rougeTokens('今天ABC123、カメラ')).toEqual(['今', '天', 'abc123', 'カ', 'メ', 'ラ']);
    expect(await textSimilarity('rouge_1', '今天天气', '今天下雨')).toBeCloseTo(0.5, 12);
  });

  it('counts a common subsequence across word boundaries as the plain table does', async () => {
    let state = 1;
    const random = (n: number) => {
      state = (state * 48271) % 2147483647;
      return state % n;
    };
    for (let round = 0; round < 40; round++) {
      const text = (length: number) => Array.from({ length }, () => 'abcd'[random(4)]!);
      const [a, b] = [text(random(140)), text(random(140))];
      const row = Array.from({ length: b.length + 1 }, () => 0);
      for (const left of a) {
        let diagonal = 0;
        for (let j = 1; j <= b.length; j++) {
          const above = row[j]!;
          row[j] = left === b[j - 1] ? diagonal + 1 : Math.max(above, row[j - 1]!);
          diagonal = above;
        }
      }
      expect(await longestCommonSubsequence(a, b)).toBe(row[b.length]);
    }
  });

  it('lets other work run while it compares the longest texts', async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const text = Array.from({ length: TEXT_MAX / 5 }, (_, i) => `ab${i % 7}c `).join('');
    const score = await textSimilarity('fuzzy_match', text, text.split('').toReversed().join(''));
    clearInterval(timer);
    expect(score).toBeGreaterThan(0);
    expect(score).toBeLessThan(1);
    expect(turns).toBeGreaterThan(5);
  });
});
