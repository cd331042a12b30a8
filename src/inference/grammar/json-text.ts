/**
 * JSON as a grammar: strings, numbers, any value, and the white space between them. What it accepts is always valid
 * JSON that parses to finite numbers; it is narrower than JSON where that costs nothing (see each rule).
 */
import {
  chars,
  choice,
  type Node,
  oneOf,
  optional,
  type Rules,
  repeat,
  rule,
  sequence,
  text,
} from './nodes.ts';
import type { Ranges } from './ranges.ts';

/**
 * Characters that stand for themselves inside a JSON string. Surrogates are not cut out: their bytes are no UTF-8 and
 * are decoded to U+FFFD, which is fine in a string.
 */
export const PLAIN: Ranges = [
  [0x20, 0x21],
  [0x23, 0x5b],
  [0x5d, 0x10ffff],
];

/** Digits of integers, and before the point of decimals: more would not survive as a double. */
export const INTEGER_DIGITS_MAX = 15;

export const DIGIT = chars([0x30, 0x39]);
const HEX = chars([0x30, 0x39], [0x41, 0x46], [0x61, 0x66]);

/**
 * Compact, spaced or indented layouts: nothing, one space, or a line break with up to 16 characters of indentation.
 * Without a bound a model could answer with white space until its tokens run out.
 */
export const space = (rules: Rules): Node =>
  rules.once('space', () =>
    choice(text(''), text(' '), sequence(text('\n'), repeat(chars([0x20, 0x20], [0x09, 0x09]), 0, 16))),
  );

const plain = oneOf(PLAIN)!;

/**
 * The rest of a string with its closing quote, from anywhere inside. A run of plain characters is one class repeated,
 * which the matcher follows a hundred times faster than a choice of characters and escapes. Escapes only where JSON
 * needs them, so a key has one spelling; NUL is left out.
 */
export const stringRest = (rules: Rules): Node =>
  rules.once('string_rest', () => {
    const escapes = rules.expanded(escaped(rules))!;
    const character = choice(plain, sequence(text('\\'), escapes));
    rules.isRegular('string_rest', sequence(repeat(character, 0, null), text('"')));
    return sequence(
      repeat(plain, 0, null),
      choice(text('"'), sequence(text('\\'), escaped(rules), rule('string_rest'))),
    );
  });

const escaped = (rules: Rules): Node =>
  rules.once('escaped', () =>
    choice(
      ...['"', '\\', 'b', 'f', 'n', 'r', 't'].map(text),
      sequence(text('u001'), HEX),
      sequence(text('u000'), chars([0x31, 0x39], [0x41, 0x46], [0x61, 0x66])),
    ),
  );

/**
 * A string of `min` to `max` characters (code points, as JSON Schema counts them). Where there is a maximum, all of
 * them are plain: counting escapes too would make every token a hundred times dearer.
 */
export function stringOf(rules: Rules, min: number, max: number | null): Node {
  if (max === null) return sequence(text('"'), repeat(plain, min, min), stringRest(rules));
  return sequence(text('"'), repeat(plain, min, max), text('"'));
}

export const anyString = (rules: Rules): Node =>
  rules.once('string', () => sequence(text('"'), stringRest(rules)));

export const anyInteger = (rules: Rules): Node =>
  rules.once('integer', () =>
    choice(
      text('0'),
      sequence(optional(text('-')), chars([0x31, 0x39]), repeat(DIGIT, 0, INTEGER_DIGITS_MAX - 1)),
    ),
  );

/** Up to 15 digits before and after the point, exponents of two digits: always a finite double. */
export const anyNumber = (rules: Rules): Node =>
  rules.once('number', () =>
    sequence(
      optional(text('-')),
      choice(text('0'), sequence(chars([0x31, 0x39]), repeat(DIGIT, 0, INTEGER_DIGITS_MAX - 1))),
      optional(sequence(text('.'), repeat(DIGIT, 1, INTEGER_DIGITS_MAX))),
      optional(
        sequence(
          chars([0x65, 0x65], [0x45, 0x45]),
          optional(chars([0x2b, 0x2b], [0x2d, 0x2d])),
          repeat(DIGIT, 1, 2),
        ),
      ),
    ),
  );

export const anyBoolean = choice(text('true'), text('false'));

/** Any JSON value. */
export const anyValue = (rules: Rules): Node =>
  rules.once('value', () =>
    choice(
      anyString(rules),
      anyNumber(rules),
      text('true'),
      text('false'),
      text('null'),
      anyObject(rules),
      anyArray(rules),
    ),
  );

export const anyObject = (rules: Rules): Node =>
  rules.once('object', () => {
    const member = sequence(anyString(rules), text(':'), space(rules), rule('value'));
    anyValue(rules);
    return sequence(text('{'), space(rules), optional(listOf(rules, member)), text('}'));
  });

const anyArray = (rules: Rules): Node =>
  rules.once('array', () => {
    anyValue(rules);
    return sequence(text('['), space(rules), optional(listOf(rules, rule('value'))), text(']'));
  });

/** `item, item, …` with white space after each comma and at the end. */
function listOf(rules: Rules, item: Node): Node {
  return sequence(item, repeat(sequence(text(','), space(rules), item), 0, null), space(rules));
}

/** Exactly this value, written without white space. */
export const literal = (value: unknown): Node => text(JSON.stringify(value));
