/** The bytes of one row, gathered up to a limit and decoded strictly as UTF-8. */

/** One row's text, or why it cannot be read. `line` is the 1-based line on which the row starts. */
export type RawRow = { line: number; text: string } | { line: number; code: string; message: string };

const maxRowBytes = 4 * 1024 * 1024;

/** Collects the bytes of one row, up to the limit, and decodes them strictly. */
export class RowBytes {
  blank = 0;
  private chunks: Uint8Array[] = [];
  private size = 0;

  get empty(): boolean {
    return this.size === 0;
  }

  add(bytes: Uint8Array): void {
    this.size += bytes.length;
    if (this.size <= maxRowBytes && bytes.length > 0) this.chunks.push(bytes);
  }

  /** Ends the row: its text or its fault; null for a blank one, which is counted. */
  take(line: number): RawRow | null {
    const { chunks, size } = this;
    this.chunks = [];
    this.size = 0;
    if (size > maxRowBytes) {
      return {
        line,
        code: 'line_too_long',
        message: `the line has ${size} bytes; the limit is ${maxRowBytes}`,
      };
    }
    const bytes = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
    const text = decodeStrictly(bytes);
    if (text === null) {
      return {
        line,
        code: 'invalid_encoding',
        message: `not valid UTF-8 at byte ${badByte(bytes)} of the line`,
      };
    }
    if (/[^ \t\r]/.test(text)) return { line, text };
    this.blank++;
    return null;
  }
}

function decodeStrictly(bytes: Uint8Array, open = false): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes, { stream: open });
  } catch {
    return null;
  }
}

/** 0-based offset of the first byte that is not UTF-8: the end of the longest prefix that decodes. */
function badByte(bytes: Uint8Array): number {
  let low = 0;
  let high = bytes.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (decodeStrictly(bytes.subarray(0, middle), true) === null) high = middle - 1;
    else low = middle;
  }
  return low;
}
