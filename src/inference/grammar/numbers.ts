/**
 * Numbers between bounds as grammars over their digits. Decimals are a subset of what the bounds allow: enough to
 * write any whole part with any fraction, or three digits where the bounds leave no whole number.
 */
import { DIGIT, INTEGER_DIGITS_MAX } from './json-text.ts';
import { chars, choice, type Node, repeat, sequence, text } from './nodes.ts';

export interface Bounds {
  min: number | null;
  max: number | null;
  /** Whether the bound itself is outside. */
  minExcluded: boolean;
  maxExcluded: boolean;
}

const LARGEST = 10 ** INTEGER_DIGITS_MAX - 1;
const FRACTION_DIGITS = 15;

/** Integers within the bounds; null when there are none. */
export function integersWithin(bounds: Bounds): Node | null {
  const [low, high] = wholeBounds(bounds);
  return wholeRange(low, high, (digits) => digits);
}

/** Decimals within the bounds; null when none can be written. */
export function decimalsWithin(bounds: Bounds): Node | null {
  const [low, high] = wholeBounds(bounds);
  if (low > high) return fineDecimals(bounds);
  const options: Node[] = [];
  const whole = wholeRange(low, high, (digits) => digits);
  if (whole) options.push(whole);
  // A fraction moves away from zero, so the whole part must leave one more to the bound on that side.
  const fraction = sequence(text('.'), repeat(DIGIT, 1, FRACTION_DIGITS));
  const positive = naturals(Math.max(low, 0), high - 1);
  if (positive) options.push(sequence(positive, fraction));
  const negative = naturals(Math.max(-high, 0), -low - 1);
  if (negative) options.push(sequence(text('-'), negative, fraction));
  return options.length === 0 ? null : choice(...options);
}

/** The whole numbers of [low, high] written by `finish`, which gets the digits of the magnitude. */
function wholeRange(low: number, high: number, finish: (digits: Node) => Node): Node | null {
  if (low > high) return null;
  const options: Node[] = [];
  const positive = naturals(Math.max(low, 0), high);
  if (positive) options.push(finish(positive));
  const negative = naturals(Math.max(-high, 1), -low);
  if (negative) options.push(sequence(text('-'), finish(negative)));
  return options.length === 0 ? null : choice(...options);
}

function wholeBounds({ min, max, minExcluded, maxExcluded }: Bounds): [low: number, high: number] {
  const low = min === null ? -LARGEST : minExcluded ? Math.floor(min) + 1 : Math.ceil(min);
  const high = max === null ? LARGEST : maxExcluded ? Math.ceil(max) - 1 : Math.floor(max);
  return [Math.max(low, -LARGEST), Math.min(high, LARGEST)];
}

/** The natural numbers of [low, high] without leading zeros; null when there are none. */
function naturals(low: number, high: number): Node | null {
  if (low > high) return null;
  const options: Node[] = [];
  const [first, last] = [String(low), String(high)];
  for (let length = first.length; length <= last.length; length++) {
    const from = length === first.length ? first : `1${'0'.repeat(length - 1)}`;
    const to = length === last.length ? last : '9'.repeat(length);
    options.push(between(from, to));
  }
  return choice(...options);
}

/** Digit strings of one length from `from` to `to`. */
function between(from: string, to: string): Node {
  if (from === '') return text('');
  if (/^0*$/.test(from) && /^9*$/.test(to)) return anyDigits(from.length);
  const [a, b] = [Number(from[0]), Number(to[0])];
  const rest = from.length - 1;
  if (a === b) return join(digit(a, a), between(from.slice(1), to.slice(1)));
  const lowest = /^0*$/.test(from.slice(1));
  const highest = /^9*$/.test(to.slice(1));
  const options: Node[] = [];
  if (!lowest) options.push(join(digit(a, a), between(from.slice(1), '9'.repeat(rest))));
  const [start, end] = [lowest ? a : a + 1, highest ? b : b - 1];
  if (start <= end) options.push(join(digit(start, end), anyDigits(rest)));
  if (!highest) options.push(join(digit(b, b), between('0'.repeat(rest), to.slice(1))));
  return choice(...options);
}

/** Decimals where no whole number fits: as many digits as tell the bounds apart, and two more. */
function fineDecimals(bounds: Bounds): Node | null {
  const { min, max } = bounds;
  if (min === null || max === null || min > max) return null;
  const negative = max <= 0;
  const [from, to] = negative ? [-max, -min] : [min, max];
  const inside = (value: number) =>
    value >= from &&
    value <= to &&
    !((negative ? bounds.maxExcluded : bounds.minExcluded) && value === from) &&
    !((negative ? bounds.minExcluded : bounds.maxExcluded) && value === to);
  for (let digits = 1; digits <= FRACTION_DIGITS; digits++) {
    const [low, high] = scaled(from, to, digits, inside);
    if (low > high) continue;
    const more = Math.min(digits + 2, FRACTION_DIGITS);
    const [least, most] = scaled(from, to, more, inside);
    const wholeDigits = String(Math.floor(Number(`${least}e-${more}`))).length; // the same for `most`
    const width = more + wholeDigits;
    const padded = (value: number) => String(value).padStart(width, '0');
    const node = pointed(padded(least), padded(most), wholeDigits);
    return negative ? sequence(text('-'), node) : node;
  }
  return null;
}

/** The first and last n with n / 10^digits inside, as their decimal spelling reads. */
function scaled(
  from: number,
  to: number,
  digits: number,
  inside: (value: number) => boolean,
): [low: number, high: number] {
  const spelled = (n: number) => Number(`${n}e-${digits}`);
  let low = Math.max(0, Math.floor(from * 10 ** digits) - 1);
  let high = Math.ceil(to * 10 ** digits) + 1;
  while (low <= high && !inside(spelled(low))) low++;
  while (high >= low && !inside(spelled(high))) high--;
  return [low, high];
}

/** Both bounds share their whole part here (no whole number lies between), so the point comes after fixed digits. */
function pointed(least: string, most: string, wholeDigits: number): Node {
  return sequence(
    text(`${least.slice(0, wholeDigits)}.`),
    between(least.slice(wholeDigits), most.slice(wholeDigits)),
  );
}

const anyDigits = (count: number): Node => (count === 0 ? text('') : repeat(DIGIT, count, count));
const digit = (from: number, to: number): Node => chars([0x30 + from, 0x30 + to]);

function join(first: Node, rest: Node): Node {
  return rest.kind === 'text' && rest.text === '' ? first : sequence(first, rest);
}

/** The multiples of `step` in the bounds, or null when they are more than `most`. */
export function multiplesWithin(bounds: Bounds, step: number, most: number): number[] | null {
  const [low, high] = wholeBounds(bounds);
  const first = Math.ceil(low / step);
  const last = Math.floor(high / step);
  if (last - first + 1 > most) return null;
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}
