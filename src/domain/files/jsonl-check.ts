/**
 * The cheap look at a training file while it streams by: is it JSON lines (or one JSON array) of objects? Reports the
 * first bad line. What the objects mean is checked when a job starts.
 */
import { isUtf8 } from 'node:buffer';
import { judgeJson } from './json-grammar.ts';

/** The first thing wrong with the file, ready for an error's message and code. */
export interface Finding {
  code: string;
  message: string;
}

const LINE_BYTES_MAX = 4 * 1024 * 1024;
const DEPTH_MAX = 32;
const BOM = [0xef, 0xbb, 0xbf];
const NEWLINE = 0x0a;
const OPEN_BRACKET = 0x5b;

const isSpace = (byte: number) => byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d;

/** Push every chunk, then ask `end()`. Memory: one line. Stops looking after the first finding. */
export class JsonlCheck {
  #mode: 'start' | 'lines' | 'array' = 'start';
  #finding: Finding | null = null;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #number = 1; // of the line or element being read
  #seen = 0;
  #array = { depth: 0, inString: false, escaped: false, closed: false };

  push(chunk: Uint8Array): void {
    if (this.#finding) return;
    let rest = chunk;
    if (this.#mode === 'start') {
      const head = this.#takePending(chunk);
      rest = this.#begin(head);
      if (this.#mode === 'start') return;
    }
    if (this.#mode === 'lines') this.#pushLines(rest);
    else this.#pushArray(rest);
  }

  /** What is wrong, or null; `arrayAllowed` false also refuses one JSON array. */
  end(arrayAllowed: boolean): Finding | null {
    if (!this.#finding && this.#mode === 'lines' && this.#pendingBytes > 0)
      this.#checkLine(this.#takePending());
    if (this.#finding) return this.#finding;
    if (this.#mode === 'array') {
      if (!arrayAllowed)
        return notDictionary('Line 1', '[', 'the file is one JSON array; write one object per line');
      if (!this.#array.closed)
        return { code: 'invalid_jsonl', message: 'The JSON array of the file is never closed.' };
    }
    return this.#seen === 0 ? { code: 'empty_file', message: 'The file is empty.' } : null;
  }

  /** Skips a BOM and white space, decides between lines and array; returns what follows. */
  #begin(head: Uint8Array): Uint8Array {
    if (head.length < 3 && head.every((byte, i) => byte === BOM[i])) {
      this.#keep(head);
      return head;
    }
    let at = BOM.every((byte, i) => head[i] === byte) ? 3 : 0;
    while (at < head.length && isSpace(head[at]!)) {
      if (head[at] === NEWLINE) this.#number += 1;
      at += 1;
    }
    if (at === head.length) return head.subarray(at);
    this.#mode = head[at] === OPEN_BRACKET ? 'array' : 'lines';
    if (this.#mode === 'array') this.#number = 1;
    return head.subarray(at);
  }

  #pushLines(chunk: Uint8Array): void {
    let from = 0;
    for (let to = chunk.indexOf(NEWLINE); to !== -1 && !this.#finding; to = chunk.indexOf(NEWLINE, from)) {
      this.#checkLine(this.#takePending(chunk.subarray(from, to)));
      this.#number += 1;
      from = to + 1;
    }
    if (from < chunk.length) this.#keep(chunk.subarray(from));
  }

  #checkLine(line: Uint8Array): void {
    let end = line.length;
    while (end > 0 && isSpace(line[end - 1]!)) end -= 1;
    if (end > 0) this.#checkObject(end === line.length ? line : line.subarray(0, end), 'Line');
  }

  /** Splits the array's elements by counting brackets outside of strings. */
  #pushArray(chunk: Uint8Array): void {
    const state = this.#array;
    let from = 0;
    for (let i = 0; i < chunk.length && !this.#finding; i++) {
      const byte = chunk[i]!;
      if (state.closed) {
        if (!isSpace(byte))
          this.#finding = {
            code: 'invalid_jsonl',
            message: 'There is text after the JSON array of the file.',
          };
      } else if (state.inString) {
        if (state.escaped) state.escaped = false;
        else if (byte === 0x5c) state.escaped = true;
        else if (byte === 0x22) state.inString = false;
      } else if (byte === 0x22) {
        state.inString = true;
      } else if (byte === 0x7b || byte === 0x5b) {
        state.depth += 1;
        if (state.depth === 1) from = i + 1;
      } else if (byte === 0x2c && state.depth === 1) {
        this.#checkElement(this.#takePending(chunk.subarray(from, i)), false);
        from = i + 1;
      } else if (byte === 0x7d || byte === 0x5d) {
        state.depth -= 1;
        if (state.depth === 0) {
          this.#checkElement(this.#takePending(chunk.subarray(from, i)), true);
          state.closed = true;
          from = i + 1;
        }
      }
    }
    if (!state.closed && from < chunk.length) this.#keep(chunk.subarray(from));
  }

  #checkElement(element: Uint8Array, last: boolean): void {
    let [from, to] = [0, element.length];
    while (from < to && isSpace(element[from]!)) from += 1;
    while (to > from && isSpace(element[to - 1]!)) to -= 1;
    const empty = from === to && last && this.#seen === 0;
    if (!empty) this.#checkObject(element.subarray(from, to), 'Element');
    this.#number += 1;
  }

  #checkObject(bytes: Uint8Array, what: 'Line' | 'Element'): void {
    this.#seen += 1;
    if (bytes.length > LINE_BYTES_MAX) this.#finding = tooLong(`${what} ${this.#number}`);
    else if (!isUtf8(bytes) || judgeJson(bytes, DEPTH_MAX) !== 'object') {
      this.#finding = findingOf(bytes, `${what} ${this.#number}`);
    }
  }

  #keep(bytes: Uint8Array): void {
    this.#pending.push(Uint8Array.from(bytes)); // a copy: the sender may reuse its buffer
    this.#pendingBytes += bytes.length;
    if (this.#pendingBytes > LINE_BYTES_MAX && this.#mode !== 'start') {
      this.#finding = tooLong(`${this.#mode === 'array' ? 'Element' : 'Line'} ${this.#number}`);
      this.#pending = [];
    }
  }

  #takePending(last?: Uint8Array): Uint8Array {
    if (this.#pending.length === 0) return last ?? new Uint8Array();
    const whole = Buffer.concat(last ? [...this.#pending, last] : this.#pending);
    this.#pending = [];
    this.#pendingBytes = 0;
    return whole;
  }
}

/** Why these bytes are not one JSON object. */
function findingOf(bytes: Uint8Array, where: string): Finding {
  const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  if (!isUtf8(bytes)) {
    const good = Buffer.byteLength(text.slice(0, text.indexOf('\ufffd')));
    return { code: 'invalid_encoding', message: `${where} is not valid UTF-8 (at byte ${good}).` };
  }
  const verdict = judgeJson(bytes, DEPTH_MAX);
  if (verdict === 'too deep') {
    return { code: 'json_too_deep', message: `${where} is nested deeper than ${DEPTH_MAX} levels.` };
  }
  const hint =
    verdict === 'not JSON' && bytes.includes(0x0d) ? 'the file has CR line endings; use LF' : undefined;
  return notDictionary(where, text, hint);
}

const tooLong = (where: string): Finding => ({
  code: 'line_too_long',
  message: `${where} is longer than ${LINE_BYTES_MAX} bytes.`,
});

function notDictionary(where: string, text: string, hint?: string): Finding {
  const start = JSON.stringify(text.slice(0, 80).toWellFormed());
  return {
    code: 'invalid_jsonl',
    message:
      'Expected file to have JSONL format, where every line is a JSON dictionary. ' +
      `${where} is not a dictionary (HINT: ${hint ?? `line starts with: ${start}`}).`,
  };
}
