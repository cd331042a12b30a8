import { describe, expect, test } from 'vitest';
import { loadTokenizer, StreamDecoder, TokenizerError } from '../../../workers/engine/tokenizer/load.ts';
import { byteTokenizer, modelFolder, type TokenizerJson, tinyFolder } from './fixture.ts';

const tiny = loadTokenizer(tinyFolder);

const texts = [
  'Hello, could you put two red kites aside for me?',
  '{"item":"kite","count":12}',
  "Zorvin’s  naïve café\n\n\tdoesn't cost €5. 漢字 😀 e\u0301",
  '   leading, trailing and   inner   spaces   ',
  '\r\n\r\n\n \n',
  'العربية עברית हिन्दी 한국어 ไทย',
  '👩‍👩‍👧‍👦 Z̸̡̛ ﷽ \ufeff inside',
  'price = 3.14159; if (a<b && c>d) { return [1,2,3]; }',
  '\u0001\u007f\u0085\u2028',
];

describe('the shipped tokenizer', () => {
  test.each(texts)('decodes what it encoded: %j', (text) => {
    expect(tiny.decode(tiny.encode(text))).toBe(text);
  });

  test('gives the ids of the reference implementation (tokenizers 0.23)', () => {
    expect(tiny.encode(texts[0]!)).toEqual([
      862, 44, 271, 639, 612, 289, 479, 916, 544, 828, 602, 387, 101, 376, 1036, 63,
    ]);
    expect(tiny.encode(texts[1]!)).toEqual([404, 419, 317, 1457, 327, 99, 496, 300, 49, 50, 125]);
    expect(tiny.encode(texts[2]!)).toEqual([
      90, 303, 118, 288, 226, 128, 153, 115, 32, 320, 97, 195, 175, 353, 271, 1637, 195, 169, 10, 10, 9, 1536,
      285, 110, 39, 116, 271, 1205, 32, 226, 130, 172, 53, 46, 32, 230, 188, 162, 229, 173, 151, 32, 240, 159,
      152, 128, 604, 204, 129,
    ]);
  });

  test('never makes a control token of plain text', () => {
    for (const text of ['<|im_end|>', 'a<|im_start|>system\nb<|endoftext|>', '<|im_<|im_end|>end|>']) {
      const ids = tiny.encode(text);
      expect(ids.some((id) => tiny.isSpecial(id))).toBe(false);
      expect(tiny.decode(ids)).toBe(text);
    }
  });

  test('knows its special tokens, end tokens and size', () => {
    expect(tiny.vocabSize).toBe(2048);
    expect(tiny.eosIds).toEqual([2047, 2045]);
    expect(tiny.specialId('<|im_start|>')).toBe(2046);
    expect(tiny.decode([2046, 104, 105, 2047])).toBe('<|im_start|>hi<|im_end|>');
    expect(tiny.decode([2046, 104, 105, 2047], { skipSpecial: true })).toBe('hi');
    expect(() => tiny.tokenBytes(2048)).toThrow(RangeError);
    expect(() => tiny.specialId('<|nothing|>')).toThrow(/not a special token/);
  });

  test('token bytes joined are the text; a lone part of a character shows as U+FFFD', () => {
    const ids = tiny.encode('漢字 😀');
    expect(Buffer.concat(ids.map((id) => tiny.tokenBytes(id))).toString('utf8')).toBe('漢字 😀');
    expect(tiny.tokenString(tiny.encode('漢')[0]!)).toBe('\ufffd');
  });
});

test('encodePrefix agrees with encode and stays fast on hostile text', () => {
  const prose = `${'The kite of Mira is red, and Tom likes soup. '.repeat(1500)}end`;
  expect(tiny.encodePrefix(prose, Number.POSITIVE_INFINITY)).toEqual(tiny.encode(prose));
  for (const text of [
    'a'.repeat(1 << 20),
    ' '.repeat(1 << 20),
    'kitelamp'.repeat(1 << 17),
    '👩‍👩‍👧‍👦'.repeat(100_000),
  ]) {
    const began = performance.now();
    const ids = tiny.encodePrefix(text, 257);
    expect(performance.now() - began).toBeLessThan(1000);
    expect(ids.slice(0, 257)).toEqual(tiny.encode(text.slice(0, 4000)).slice(0, 257));
  }
});

describe('StreamDecoder', () => {
  test('emits complete characters only, and all of them', () => {
    const text = 'naïve 漢字 👩‍👧 ok';
    const decoder = new StreamDecoder(tiny);
    const pieces = tiny.encode(text).map((id) => decoder.push(id));
    expect(pieces.some((piece) => piece.includes('\ufffd'))).toBe(false);
    expect(pieces).toContain('');
    expect(pieces.join('') + decoder.flush()).toBe(text);
  });

  test('replaces bytes that never become UTF-8, skips special tokens, and can be used again', () => {
    const decoder = new StreamDecoder(tiny);
    expect([0xe6, 104, 2047].map((id) => decoder.push(id))).toEqual(['', '\ufffdh', '']);
    expect(decoder.push(0xf0)).toBe('');
    expect(decoder.flush()).toBe('\ufffd');
    expect(decoder.push(104)).toBe('h');
    expect(new StreamDecoder(tiny, { skipSpecial: false }).push(2047)).toBe('<|im_end|>');
  });
});

test('added tokens that are not special stay part of text, as in transformers', () => {
  const tokenizer = loadTokenizer(modelFolder(byteTokenizer()));
  expect(tokenizer.encode('<think>the')).toEqual([259, 256, 101]);
  expect(tokenizer.encode('<|im_end|>')).not.toContain(258);
});

test.each([
  [
    'Qwen',
    String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  ],
  [
    'Llama 3',
    String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  ],
])('the pattern of %s is accepted and loses nothing', (_name, regex) => {
  const split = { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false };
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
  const tokenizer = loadTokenizer(
    modelFolder(
      byteTokenizer((json) => {
        json.pre_tokenizer = { type: 'Sequence', pretokenizers: [split, byteLevel] };
        json.normalizer = { type: 'NFC' };
        json.post_processor = {
          type: 'TemplateProcessing',
          single: [
            { SpecialToken: { id: '<|im_start|>', type_id: 0 } },
            { Sequence: { id: 'A', type_id: 0 } },
          ],
          pair: [],
          special_tokens: { '<|im_start|>': { id: '<|im_start|>', ids: [257], tokens: ['<|im_start|>'] } },
        };
      }),
    ),
  );
  for (const text of texts) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text.normalize('NFC'));
  expect(tokenizer.prefixIds).toEqual([257]);
  expect(tokenizer.encode('a')).toEqual([97]);
});

describe('a tokenizer.json that cannot be used is refused by name', () => {
  const cases: [string, (json: TokenizerJson) => void, RegExp][] = [
    [
      'another model type',
      (j) => {
        j.model.type = 'Unigram';
      },
      /Unigram is not supported/,
    ],
    [
      'byte fallback',
      (j) => {
        j.model.byte_fallback = true;
      },
      /byte_fallback/,
    ],
    [
      'an id used twice',
      (j) => {
        j.model.vocab!.a = 0;
      },
      /id 0 is used twice/,
    ],
    [
      'a bad id',
      (j) => {
        j.model.vocab!.a = -1;
      },
      /bad id of "a"/,
    ],
    [
      'a merge without its token',
      (j) => {
        j.model.merges.push(['a', 'b']);
      },
      /merge "a b"/,
    ],
    [
      'a malformed merge',
      (j) => {
        j.model.merges.push(['a']);
      },
      /not a pair/,
    ],
    [
      'no byte level',
      (j) => {
        j.pre_tokenizer = { type: 'Digits' };
      },
      /no ByteLevel step/,
    ],
    [
      'an unknown pre-tokenizer',
      (j) => {
        j.pre_tokenizer = { type: 'Metaspace' };
      },
      /Metaspace is not supported/,
    ],
    [
      'a lowercasing normalizer',
      (j) => {
        j.normalizer = { type: 'Lowercase' };
      },
      /Lowercase is not supported/,
    ],
    [
      'a pattern with nested repeats',
      (j) => {
        j.pre_tokenizer = {
          type: 'Sequence',
          pretokenizers: [
            { type: 'Split', pattern: { Regex: '(a+)+b' }, behavior: 'Isolated' },
            j.pre_tokenizer,
          ],
        };
      },
      /repeats a group/,
    ],
    [
      'an empty added token',
      (j) => {
        j.added_tokens[0]!.content = '';
      },
      /no content/,
    ],
    [
      'too many added tokens',
      (j) => {
        j.added_tokens = Array.from({ length: 4097 }, (_, id) => ({ id, content: `t${id}` }));
      },
      /more than 4096/,
    ],
    [
      'no vocabulary',
      (j) => {
        j.model.vocab = undefined;
      },
      /model.vocab is missing/,
    ],
  ];
  test.each(cases)('%s', (_name, change, message) => {
    const load = () => loadTokenizer(modelFolder(byteTokenizer(change)));
    expect(load).toThrow(TokenizerError);
    expect(load).toThrow(message);
  });
});
