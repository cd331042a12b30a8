/**
 * Streams the rows of a data file in constant memory: JSON lines, or the elements of one JSON array.
 * Knows bytes, lines and encodings; does not parse JSON.
 */
import { createReadStream } from 'node:fs';
import { ArrayCutter } from './read-array.ts';
import { type RawRow, RowBytes } from './row-bytes.ts';

export type { RawRow } from './row-bytes.ts';

export interface ReadResult {
  blankLines: number;
  byteOrderMark: boolean;
  array: boolean;
}

const newline = 0x0a;

/** Cuts a byte stream at newlines. */
class LineCutter {
  readonly row = new RowBytes();
  private line = 1;

  *push(bytes: Uint8Array): Generator<RawRow> {
    let start = 0;
    for (let at = bytes.indexOf(newline); at >= 0; at = bytes.indexOf(newline, start)) {
      this.row.add(bytes.subarray(start, at));
      const row = this.row.take(this.line++);
      if (row !== null) yield row;
      start = at + 1;
    }
    this.row.add(bytes.subarray(start));
  }

  *end(): Generator<RawRow> {
    const row = this.row.empty ? null : this.row.take(this.line);
    if (row !== null) yield row;
  }
}

function isArrayStart(bytes: Uint8Array): boolean {
  return bytes.find((b) => b !== 0x20 && b !== 0x09 && b !== 0x0d && b !== newline) === 0x5b;
}

/** Streams the rows of a local file; see rowsOf. */
export function readRows(path: string): AsyncGenerator<RawRow, ReadResult> {
  return rowsOf(createReadStream(path, { highWaterMark: 1 << 18 }));
}

/**
 * Streams the rows of a file's bytes; a file whose first character is "[" is read as one JSON array. The returned value
 * tells what was passed over. Memory: one row (at most 4 MiB) and one chunk, whatever the file's size.
 */
export async function* rowsOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<RawRow, ReadResult> {
  let cutter: LineCutter | ArrayCutter | null = null;
  let byteOrderMark = false;
  for await (const chunk of chunks) {
    let bytes = chunk;
    if (cutter === null) {
      byteOrderMark = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
      if (byteOrderMark) bytes = bytes.subarray(3);
      cutter = isArrayStart(bytes) ? new ArrayCutter() : new LineCutter();
    }
    yield* cutter.push(bytes);
  }
  if (cutter !== null) yield* cutter.end();
  return { blankLines: cutter?.row.blank ?? 0, byteOrderMark, array: cutter instanceof ArrayCutter };
}
