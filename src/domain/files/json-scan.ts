/**
 * Looks over JSON text before JSON.parse sees it, for what JSON.parse lets through or chokes on: bomb-like nesting,
 * repeated keys, NUL and lone surrogates in strings, numbers that overflow. Grammar itself is left to JSON.parse.
 */

export interface ScanLimits {
  /** Deepest nesting of objects and arrays. */
  depth: number;
  /** Objects, arrays, strings, numbers and literals in all. */
  nodes: number;
}

export type FaultCode =
  | 'json_too_deep'
  | 'json_too_large'
  | 'duplicate_parameter'
  | 'unknown_parameter'
  | 'invalid_string'
  | 'invalid_number';

/** What is wrong and where: `path` as in "messages[0].content", null at the top. */
export class JsonFault extends Error {
  override name = 'JsonFault';
  readonly code: FaultCode;
  readonly path: string | null;

  constructor(code: FaultCode, message: string, path: string | null) {
    super(message);
    this.code = code;
    this.path = path;
  }
}

interface Frame {
  /** Keys seen so far, in an object; null in an array. */
  keys: Set<string> | null;
  /** The member being read. */
  key: string;
  index: number;
  expectsKey: boolean;
}

const QUOTE = 0x22;
const NUMBER = /-?[0-9][0-9.eE+-]*/y;
const LITERAL = /[a-zA-Z]+/y;

/** Throws JsonFault at the first violation; returns quietly for text that is not JSON at all. */
export function scanJson(text: string, limits: ScanLimits): void {
  const stack: Frame[] = [];
  let nodes = 0;
  let nextEscape = -2; // position of the next backslash; -1 when there is none
  const fault = (code: FaultCode, message: string) => new JsonFault(code, message, pathOf(stack));
  const count = () => {
    nodes += 1;
    if (nodes > limits.nodes) {
      throw new JsonFault(
        'json_too_large',
        `JSON with more than ${limits.nodes} values is not accepted.`,
        null,
      );
    }
  };
  for (let i = 0; i < text.length; ) {
    const char = text.charCodeAt(i);
    const frame = stack[stack.length - 1];
    if (char === QUOTE) {
      const start = i + 1;
      let end = text.indexOf('"', start);
      if (nextEscape !== -1 && nextEscape < start) nextEscape = text.indexOf('\\', start);
      const escaped = nextEscape !== -1 && end !== -1 && nextEscape < end;
      if (escaped) end = endOfString(text, start);
      if (end === -1) return;
      count();
      const isKey = frame?.keys !== null && frame?.expectsKey === true;
      if (isKey) readKey(frame, escaped ? unescaped(text, start, end) : text.slice(start, end), fault);
      if (isKey) frame.expectsKey = false;
      if (escaped) checkEscapes(text, start, end, fault);
      i = end + 1;
    } else if (char === 0x7b || char === 0x5b) {
      count();
      if (stack.length >= limits.depth) {
        throw new JsonFault(
          'json_too_deep',
          `JSON nested deeper than ${limits.depth} levels is not accepted.`,
          null,
        );
      }
      stack.push({ keys: char === 0x7b ? new Set() : null, key: '', index: 0, expectsKey: char === 0x7b });
      i += 1;
    } else if (char === 0x7d || char === 0x5d) {
      stack.pop();
      i += 1;
    } else if (char === 0x2c) {
      if (frame) {
        frame.index += 1;
        frame.expectsKey = frame.keys !== null;
      }
      i += 1;
    } else if ((char >= 0x30 && char <= 0x39) || char === 0x2d) {
      count();
      NUMBER.lastIndex = i;
      const number = NUMBER.exec(text)?.[0] ?? '-';
      if (!Number.isFinite(Number(number)) && /^-?\d/.test(number) && !Number.isNaN(Number(number))) {
        throw fault('invalid_number', 'The number is too large to be represented.');
      }
      i += number.length;
    } else if (char > 0x40) {
      count();
      LITERAL.lastIndex = i;
      i += LITERAL.exec(text)?.[0].length ?? 1;
    } else {
      i += 1;
    }
  }
}

/** The closing quote of a string with escapes that starts at `from`, or -1. */
function endOfString(text: string, from: number): number {
  for (let i = from; ; ) {
    const quote = text.indexOf('"', i);
    if (quote === -1) return -1;
    let backslashes = 0;
    while (quote - 1 - backslashes >= from && text.charCodeAt(quote - 1 - backslashes) === 0x5c)
      backslashes += 1;
    if (backslashes % 2 === 0) return quote;
    i = quote + 1;
  }
}

function readKey(frame: Frame, key: string, fault: (code: FaultCode, message: string) => JsonFault): void {
  frame.key = key;
  if (key === '__proto__') throw fault('unknown_parameter', `Unknown parameter: '${key}'.`);
  if (frame.keys?.has(key)) throw fault('duplicate_parameter', `Parameter given more than once: '${key}'.`);
  frame.keys?.add(key);
}

function unescaped(text: string, start: number, end: number): string {
  try {
    return JSON.parse(text.slice(start - 1, end + 1)) as string;
  } catch {
    return text.slice(start, end); // not JSON: JSON.parse of the whole will say so
  }
}

function checkEscapes(
  text: string,
  start: number,
  end: number,
  fault: (code: FaultCode, message: string) => JsonFault,
): void {
  const value = unescaped(text, start, end);
  if (value.includes('\0')) throw fault('invalid_string', 'The NUL character is not accepted in strings.');
  if (!value.isWellFormed()) throw fault('invalid_string', 'The string holds half of a surrogate pair.');
}

function pathOf(stack: Frame[]): string | null {
  let path = '';
  for (const frame of stack) {
    if (frame.keys === null) path += `[${frame.index}]`;
    else if (frame.key !== '') path += path === '' ? frame.key : `.${frame.key}`;
  }
  return path === '' ? null : path.toWellFormed().replaceAll('\0', '').slice(0, 200);
}
