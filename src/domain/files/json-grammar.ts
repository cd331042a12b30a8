/**
 * Is a run of bytes one JSON object? Answers on the bytes themselves and allocates nothing, so that files of any size
 * can be looked through line by line without feeding the garbage collector. UTF-8 is checked elsewhere.
 */

export type Verdict = 'object' | 'other value' | 'not JSON' | 'too deep';

/** What may come next. */
type Expect = 'value' | 'value or ]' | 'key' | 'key or }' | 'colon' | 'comma or end';

const TRUE = [0x74, 0x72, 0x75, 0x65];
const FALSE = [0x66, 0x61, 0x6c, 0x73, 0x65];
const NULL = [0x6e, 0x75, 0x6c, 0x6c];
const OBJECT = 1;
const DEPTH_MAX = 256;
/** Open objects and arrays; one look at a time, so one stack serves all. */
const open = new Uint8Array(DEPTH_MAX);

/** Judges `bytes` by JSON's grammar (RFC 8259); `depthMax` ≤ 256 levels of nesting are followed. */
export function judgeJson(bytes: Uint8Array, depthMax: number): Verdict {
  let depth = 0;
  let expect = 'value' as Expect;
  let isObject = false;
  let i = 0;
  for (;;) {
    while (i < bytes.length && isSpace(bytes[i]!)) i += 1;
    if (i >= bytes.length) break;
    const byte = bytes[i]!;
    if (byte === 0x22) {
      // A string: a key or a value, whichever may stand here.
      if (expect === 'colon' || expect === 'comma or end') return 'not JSON';
      i = stringEnd(bytes, i + 1);
      expect = expect === 'key' || expect === 'key or }' ? 'colon' : 'comma or end';
    } else if (byte === 0x3a) {
      if (expect !== 'colon') return 'not JSON';
      expect = 'value';
      i += 1;
    } else if (byte === 0x2c) {
      if (expect !== 'comma or end' || depth === 0) return 'not JSON';
      expect = open[depth - 1] === OBJECT ? 'key' : 'value';
      i += 1;
    } else if (byte === 0x7d || byte === 0x5d) {
      const closesObject = byte === 0x7d;
      if (depth === 0 || (open[depth - 1] === OBJECT) !== closesObject) return 'not JSON';
      if (expect !== 'comma or end' && expect !== (closesObject ? 'key or }' : 'value or ]'))
        return 'not JSON';
      depth -= 1;
      expect = 'comma or end';
      i += 1;
    } else {
      if (expect !== 'value' && expect !== 'value or ]') return 'not JSON';
      if (byte === 0x7b || byte === 0x5b) {
        if (depth >= depthMax) return 'too deep';
        if (depth === 0) isObject = byte === 0x7b;
        open[depth] = byte === 0x7b ? OBJECT : 0;
        depth += 1;
        expect = byte === 0x7b ? 'key or }' : 'value or ]';
        i += 1;
      } else {
        i = scalarEnd(bytes, i, byte);
        expect = 'comma or end';
      }
    }
    if (i === -1) return 'not JSON';
  }
  if (depth > 0 || expect !== 'comma or end') return 'not JSON';
  return isObject ? 'object' : 'other value';
}

const isSpace = (byte: number) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
const isDigit = (byte: number | undefined) => byte !== undefined && byte >= 0x30 && byte <= 0x39;

/** The place after the closing quote of a string whose text starts at `i`, or -1. */
function stringEnd(bytes: Uint8Array, i: number): number {
  for (let at = i; at < bytes.length; at++) {
    const byte = bytes[at]!;
    if (byte === 0x22) return at + 1;
    if (byte < 0x20) return -1;
    if (byte === 0x5c) {
      at += 1;
      if (bytes[at] === 0x75) {
        for (let digit = 0; digit < 4; digit++) if (!isHex(bytes[++at])) return -1;
      } else if (!isEscape(bytes[at])) return -1;
    }
  }
  return -1;
}

function isHex(byte: number | undefined): boolean {
  if (byte === undefined) return false;
  return isDigit(byte) || (byte >= 0x41 && byte <= 0x46) || (byte >= 0x61 && byte <= 0x66);
}

/** One of " \ / b f n r t */
function isEscape(byte: number | undefined): boolean {
  switch (byte) {
    case 0x22:
    case 0x5c:
    case 0x2f:
    case 0x62:
    case 0x66:
    case 0x6e:
    case 0x72:
    case 0x74:
      return true;
    default:
      return false;
  }
}

function scalarEnd(bytes: Uint8Array, i: number, first: number): number {
  if (first === 0x74) return wordEnd(bytes, i, TRUE);
  if (first === 0x66) return wordEnd(bytes, i, FALSE);
  if (first === 0x6e) return wordEnd(bytes, i, NULL);
  return numberEnd(bytes, i);
}

function wordEnd(bytes: Uint8Array, i: number, word: readonly number[]): number {
  for (let k = 0; k < word.length; k++) if (bytes[i + k] !== word[k]) return -1;
  return i + word.length;
}

/** -? (0 | 1-9 digits) (. digits)? (e ±? digits)? */
function numberEnd(bytes: Uint8Array, i: number): number {
  let at = bytes[i] === 0x2d ? i + 1 : i;
  if (bytes[at] === 0x30) at += 1;
  else at = digitsEnd(bytes, at);
  if (at !== -1 && bytes[at] === 0x2e) at = digitsEnd(bytes, at + 1);
  if (at !== -1 && (bytes[at] === 0x65 || bytes[at] === 0x45)) {
    at += 1;
    if (bytes[at] === 0x2b || bytes[at] === 0x2d) at += 1;
    at = digitsEnd(bytes, at);
  }
  return at;
}

/** The place after one or more digits, or -1. */
function digitsEnd(bytes: Uint8Array, i: number): number {
  let at = i;
  while (isDigit(bytes[at])) at += 1;
  return at === i ? -1 : at;
}
