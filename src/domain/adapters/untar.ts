/**
 * Reads a tar archive that somebody sent, as it arrives: plain files and folders only. Links, devices, absolute paths,
 * '..', broken checksums and oversized headers are refused by name; nothing is written anywhere.
 */
import { type ApiError, badRequest } from '../../errors.ts';
import type { ByteReader } from './byte-reader.ts';

export interface TarFile {
  /** As in the archive, with '/' between its segments and none that is '.' or '..'. */
  path: string;
  bytes: number;
  /** Must be read to its end before the next entry is asked for; what is not is skipped. */
  body: AsyncIterable<Uint8Array>;
}

const BLOCK = 512;
const ENTRIES_MAX = 1_000;
/** Extended headers (long names, times with fractions) are small. */
const EXTENDED_BYTES_MAX = 64 * 1024;
const KINDS: Record<string, string> = {
  '1': 'a hard link',
  '2': 'a symbolic link',
  '3': 'a device',
  '4': 'a device',
  '6': 'a pipe',
  '7': 'a contiguous file',
  S: 'a sparse file',
};

const refuse = (why: string): ApiError => badRequest(`The archive ${why}`, 'file', 'invalid_archive');

/** The archive's files in order. Throws ApiError 400 for anything but a plain archive of plain files. */
export async function* readTar(reader: ByteReader): AsyncGenerator<TarFile> {
  let longPath: string | null = null;
  let longSize: number | null = null;
  for (let entries = 0; ; entries++) {
    if (entries > ENTRIES_MAX) throw refuse(`has more than ${ENTRIES_MAX} entries.`);
    const block = await readBlock(reader);
    if (block === null) return;
    const type = String.fromCharCode(block[156]!);
    const size = sizeOf(block);
    if (type === 'x' || type === 'g' || type === 'L') {
      if (size > EXTENDED_BYTES_MAX) throw refuse('has an extended header that is too large.');
      const extended = await readContent(reader, size);
      if (type === 'L') longPath = textOf(extended);
      else if (type === 'x') {
        const records = paxRecords(extended);
        longPath = records.path ?? longPath;
        longSize = records.size === undefined ? longSize : numberOf(records.size);
      }
      continue;
    }
    const name = longPath ?? ustarPath(block);
    const bytes = longSize ?? size;
    [longPath, longSize] = [null, null];
    const path = checkPath(name);
    if (type === '5') {
      if (bytes !== 0) throw refuse(`has a folder with content: ${shown(name)}.`);
      continue;
    }
    if (type !== '0' && type !== '\0') {
      throw refuse(
        `holds ${KINDS[type] ?? `an entry of type '${shown(type)}'`}: ${shown(name)}. Only plain files are taken.`,
      );
    }
    const file = { path, bytes, body: reader.take(bytes) };
    yield file;
    for await (const _ of file.body); // what the caller left
    await reader.skip(padding(bytes));
  }
}

const shown = (text: string) => JSON.stringify(text.slice(0, 100).toWellFormed());
const padding = (bytes: number) => (BLOCK - (bytes % BLOCK)) % BLOCK;

/** The next header, or null at the archive's end (two empty blocks; one, as some writers leave it, does too). */
async function readBlock(reader: ByteReader): Promise<Uint8Array | null> {
  const block = await reader.read(BLOCK);
  if (block === null) throw refuse('ends before its end mark: it is cut short.');
  if (block.every((byte) => byte === 0)) return null;
  let sum = 8 * 0x20;
  block.forEach((byte, i) => {
    if (i < 148 || i >= 156) sum += byte;
  });
  if (octalOf(block.subarray(148, 156)) !== sum) throw refuse('is not a tar archive, or is damaged.');
  return block;
}

async function readContent(reader: ByteReader, bytes: number): Promise<Buffer> {
  const content = await reader.read(bytes);
  if (content === null) throw refuse('is cut short.');
  await reader.skip(padding(bytes));
  return Buffer.from(content);
}

function octalOf(field: Uint8Array): number {
  const text = Buffer.from(field)
    .toString('latin1')
    .replace(/[\0 ]+$/, '')
    .trim();
  return /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number.NaN;
}

function sizeOf(block: Uint8Array): number {
  const field = block.subarray(124, 136);
  const base256 = (field[0]! & 0x80) !== 0;
  const size = base256 ? Number(Buffer.from(field).readBigUInt64BE(4)) : octalOf(field);
  if (
    !Number.isSafeInteger(size) ||
    (base256 && (field[0] !== 0x80 || field.subarray(1, 4).some((b) => b !== 0)))
  )
    throw refuse('has an entry whose size cannot be read.');
  return size;
}

function numberOf(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw refuse('has an entry whose size cannot be read.');
  return Number(text);
}

/** Text up to the first NUL, strictly UTF-8. */
function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(end === -1 ? bytes : bytes.subarray(0, end));
  } catch {
    throw refuse('has a path that is not UTF-8.');
  }
}

function ustarPath(block: Uint8Array): string {
  const name = textOf(block.subarray(0, 100));
  const isUstar = Buffer.from(block.subarray(257, 262)).toString('latin1') === 'ustar' && block[262] === 0;
  const prefix = isUstar ? textOf(block.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** "<length> <key>=<value>\n" after one another; only path and size change what we read. */
function paxRecords(content: Buffer): { path?: string; size?: string } {
  const records: Record<string, string> = {};
  for (let at = 0; at < content.length; ) {
    const digits = /^(\d{1,6}) /.exec(content.toString('latin1', at, at + 7))?.[1];
    const length = Number(digits);
    const record = content.subarray(at, at + length);
    const equals = record.indexOf(0x3d);
    if (
      !digits ||
      length <= digits.length + 2 ||
      record.length < length ||
      record.at(-1) !== 0x0a ||
      equals < 0
    )
      throw refuse('has an extended header that cannot be read.');
    const key = record.toString('latin1', digits.length + 1, equals);
    if (key === 'path' || key === 'size') records[key] = textOf(record.subarray(equals + 1, -1));
    else if (key.startsWith('GNU.sparse')) throw refuse('holds a sparse file. Only plain files are taken.');
    at += length;
  }
  return records;
}

/** Refuses what could point out of a folder, also on systems with other separators. */
function checkPath(name: string): string {
  const segments = name
    .replace(/\/+$/, '')
    .split('/')
    .filter((segment) => segment !== '.');
  const unsafe =
    name.startsWith('/') ||
    /[\\\0]/.test(name) ||
    /^[A-Za-z]:/.test(name) ||
    segments.some((segment) => segment === '..' || (segment === '' && segments.length > 1));
  if (unsafe) throw refuse(`has a path that leads out of its folder: ${shown(name)}.`);
  return segments.join('/');
}
