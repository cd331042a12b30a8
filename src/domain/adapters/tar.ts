/**
 * Writes tar archives (POSIX ustar) as segments: headers made here, contents left in storage. The layout depends on
 * names and sizes alone, so an archive has a length before it is read and ranges of it can be served.
 */
import type { Segment } from '../../storage/segments.ts';

export interface TarEntry {
  /** Path inside the archive: at most 100 bytes, no leading slash. */
  path: string;
  content: Uint8Array | { key: string; bytes: number };
}

const BLOCK = 512;
/** The size field has eleven octal digits; above that GNU's base-256 form is used, which every tar reads. */
const OCTAL_MAX = 8 ** 11 - 1;

/** The whole archive: an entry's header, its content, padding to 512; two empty blocks at the end. */
export function tarSegments(entries: readonly TarEntry[], modified: Date): Segment[] {
  const segments: Segment[] = [];
  for (const { path, content } of entries) {
    const bytes = content instanceof Uint8Array ? content.byteLength : content.bytes;
    segments.push(header(path, bytes, modified), content);
    if (bytes % BLOCK > 0) segments.push(new Uint8Array(BLOCK - (bytes % BLOCK)));
  }
  segments.push(new Uint8Array(2 * BLOCK));
  return segments;
}

function header(path: string, bytes: number, modified: Date): Uint8Array {
  if (Buffer.byteLength(path) > 100) throw new Error(`The path '${path}' is too long for a tar header.`);
  const block = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, width: number) =>
    block.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'ascii');
  block.write(path, 0);
  octal(0o644, 100, 8); // mode
  octal(0, 108, 8); // uid
  octal(0, 116, 8); // gid
  if (bytes <= OCTAL_MAX) octal(bytes, 124, 12);
  else {
    block[124] = 0x80;
    block.writeBigUInt64BE(BigInt(bytes), 128);
  }
  octal(Math.max(0, Math.floor(modified.getTime() / 1000)), 136, 12);
  block.write('        ', 148); // the checksum counts itself as spaces
  block.write('0', 156); // a plain file
  block.write('ustar\u000000', 257);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}
