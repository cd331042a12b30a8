import { describe, expect, it } from 'vitest';
import { judgeJson } from '../../src/domain/files/json-grammar.ts';

const judge = (text: string) => judgeJson(Buffer.from(text), 32);

/** What JSON.parse makes of it. */
function oracle(text: string) {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' && !Array.isArray(value) ? 'object' : 'other value';
  } catch {
    return 'not JSON';
  }
}

/** A small generator (mulberry32): the same cases in every run. */
function generator(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

describe('judgeJson', () => {
  it.each([
    '{}',
    ' {"a" : [1, -0.5e+10, true, false, null, "\\u00e9\\n\\"" , {} , [] ]}\r\n',
    '[]',
    '7',
    '"x"',
    'null',
    '-0',
    '0.1E1',
    '',
    ' ',
    '{',
    '}',
    '{]',
    '[}',
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    '{,}',
    '[1,]',
    '[,1]',
    '[1 2]',
    '{"a" 1}',
    '{a:1}',
    "{'a':1}",
    '{"a":1}{',
    '{}{}',
    '01',
    '1.',
    '.5',
    '1e',
    '1e+',
    '-',
    '+1',
    '--1',
    'tru',
    'nulll',
    'True',
    '"\\x"',
    '"\\u12g4"',
    '"\\u123',
    '"a\nb"',
    '"\t"',
    '"',
    '"\\',
    '[[]',
    ':',
    ',',
    '{"a":1:2}',
    '{"a":"b":"c"}',
    '\ufeff{}',
    '{"a":1}\u00a0',
    '{1:2}',
    '[1}',
    'NaN',
    '"\u2028"',
    '{"a":[}',
  ])('agrees with JSON.parse on %j', (text) => {
    expect(judge(text)).toBe(oracle(text));
  });

  it('agrees with JSON.parse on 30,000 damaged texts', () => {
    const random = generator(7);
    const seeds = [
      '{"messages":[{"role":"user","content":"Hi \\"there\\"\\n"},{"role":"assistant","content":"é 🎉","weight":0}],"n":-1.5e3}',
      '[{"a":null,"b":true},[],{},"\\u00e9\\\\",0,12.5E-1,false]',
      '{"a":{"b":{"c":[[[1]]]}}}',
    ];
    const alphabet = '{}[]",:\\ \n0123456789-+.eEtrufalsn\u0001é';
    const counts = { object: 0, 'other value': 0, 'not JSON': 0 };
    for (let round = 0; round < 30_000; round++) {
      const text = [...seeds[random(seeds.length)]!];
      for (let edit = random(3); edit >= 0; edit--) {
        const at = random(text.length);
        const char = alphabet[random(alphabet.length)]!;
        if (random(3) === 0) text.splice(at, 1);
        else if (random(2) === 0) text.splice(at, 0, char);
        else text[at] = char;
      }
      const whole = text.join('');
      const expected = oracle(whole);
      counts[expected] += 1;
      if (judge(whole) !== expected)
        throw new Error(`disagrees with JSON.parse (${expected}) on ${JSON.stringify(whole)}`);
    }
    expect(Math.min(...Object.values(counts))).toBeGreaterThan(500); // of each kind enough
  });

  it('follows nesting to its limit', () => {
    expect(judge(`{"a":${'['.repeat(31)}${']'.repeat(31)}}`)).toBe('object');
    expect(judge(`{"a":${'['.repeat(32)}${']'.repeat(32)}}`)).toBe('too deep');
    expect(judge('['.repeat(1_000_000))).toBe('too deep');
  });
});
