/** Cuts the bytes of one JSON array into its elements, following strings and brackets only. */
import { type RawRow, RowBytes } from './row-bytes.ts';

const [quote, backslash, comma, newline] = [0x22, 0x5c, 0x2c, 0x0a];
const isOpening = (b: number) => b === 0x7b || b === 0x5b;
const isClosing = (b: number) => b === 0x7d || b === 0x5d;
const isSpace = (b: number) => b === 0x20 || b === 0x09 || b === 0x0d || b === newline;

export class ArrayCutter {
  readonly row = new RowBytes();
  /** bracket: before "["; first: an element or "]" may follow; next: an element must follow. */
  private state: 'bracket' | 'first' | 'element' | 'next' | 'closed' | 'broken' = 'bracket';
  private line = 1;
  private rowLine = 1;
  private depth = 0;
  private inString = false;
  private escaped = false;

  *push(bytes: Uint8Array): Generator<RawRow> {
    let start = 0;
    for (let i = 0; i < bytes.length && this.state !== 'broken'; i++) {
      const b = bytes[i]!;
      if (b === newline) this.line++;
      if (this.state !== 'element') {
        if (isSpace(b)) continue;
        const fault = this.between(b);
        if (fault !== null) yield fault;
        start = i;
      } else if (!this.inside(b)) {
        this.row.add(bytes.subarray(start, i));
        const row = this.row.take(this.rowLine);
        if (row !== null) yield row;
        this.state = b === comma ? 'next' : 'closed';
      }
    }
    if (this.state === 'element') this.row.add(bytes.subarray(start));
  }

  *end(): Generator<RawRow> {
    if (this.state === 'closed' || this.state === 'broken') return;
    yield { line: this.line, code: 'invalid_jsonl', message: 'the JSON array is not closed' };
  }

  /** A byte outside any element: opens the array, starts an element, or closes the array. */
  private between(b: number): RawRow | null {
    if (this.state === 'bracket') {
      this.state = 'first';
    } else if (this.state === 'closed') {
      return this.broken('there is data after the JSON array');
    } else if (b === 0x5d) {
      if (this.state === 'next') return this.broken('there is a comma before the end of the JSON array');
      this.state = 'closed';
    } else {
      this.state = 'element';
      this.rowLine = this.line;
      this.depth = 0;
      this.inside(b);
    }
    return null;
  }

  private broken(message: string): RawRow {
    this.state = 'broken';
    return { line: this.line, code: 'invalid_jsonl', message };
  }

  /** Follows one byte of an element; false when the byte ends it (a comma or the array's bracket). */
  private inside(b: number): boolean {
    if (this.inString) {
      if (this.escaped) this.escaped = false;
      else if (b === backslash) this.escaped = true;
      else if (b === quote) this.inString = false;
      return true;
    }
    if (b === quote) this.inString = true;
    else if (isOpening(b)) this.depth++;
    else if (isClosing(b)) return this.depth-- > 0;
    return b !== comma || this.depth > 0;
  }
}
