/**
 * The header of a safetensors file, checked before a byte of data is believed: size caps, no duplicate names, known
 * dtypes, shapes that fit their byte ranges, and data that is contiguous from 0 to the end of the file.
 * https://github.com/huggingface/safetensors#format
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { parseStrictJson, type StrictJson } from './strict-json.ts';

const BYTES_PER_ELEMENT: Readonly<Record<string, number>> = {
  ...{ BOOL: 1, U8: 1, I8: 1, F8_E4M3: 1, F8_E5M2: 1, U16: 2, I16: 2, F16: 2, BF16: 2 },
  ...{ U32: 4, I32: 4, F32: 4, U64: 8, I64: 8, F64: 8 },
};
const HEADER_BYTES_MAX = 100_000_000;
const TENSORS_MAX = 100_000;
const RANK_MAX = 8;
const ELEMENTS_MAX = 2n ** 48n;
const LENGTH_BYTES = 8;

export class SafetensorsError extends Error {
  readonly code = 'safetensors_invalid';

  constructor(path: string, problem: string) {
    super(`${path}: ${problem}`);
    this.name = 'SafetensorsError';
  }
}

export interface StoredTensor {
  /** Safetensors' name: F32, BF16, F16, … */
  dtype: string;
  shape: readonly number[];
  /** Position of the data in the file. */
  byteOffset: number;
  byteLength: number;
}

export interface SafetensorsHeader {
  tensors: Map<string, StoredTensor>;
  metadata: Record<string, string>;
}

/** @throws SafetensorsError naming the file and the first thing wrong with it */
export function readSafetensorsHeader(path: string): SafetensorsHeader {
  const { text, dataStart, dataBytes } = readHeaderText(path);
  const refuse = (problem: string): never => {
    throw new SafetensorsError(path, problem);
  };
  let json: StrictJson;
  try {
    json = parseStrictJson(text, 4);
  } catch (error) {
    return refuse(`the header is not strict JSON: ${(error as Error).message}`);
  }
  if (!(json instanceof Map)) return refuse('the header must be a JSON object');
  const metadata = readMetadata(json.get('__metadata__'), refuse);
  json.delete('__metadata__');
  if (json.size > TENSORS_MAX) refuse(`${json.size} tensors are more than ${TENSORS_MAX}`);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of json) {
    tensors.set(
      name,
      readEntry(entry, dataStart, (problem) => refuse(`tensor ${JSON.stringify(name)} ${problem}`)),
    );
  }
  checkContiguous(tensors, dataStart, dataBytes, refuse);
  return { tensors, metadata };
}

function readHeaderText(path: string): { text: string; dataStart: number; dataBytes: number } {
  const file = openSync(path, 'r');
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw new SafetensorsError(path, 'is not a regular file');
    const length = Buffer.alloc(LENGTH_BYTES);
    if (readSync(file, length, 0, LENGTH_BYTES, 0) < LENGTH_BYTES) {
      throw new SafetensorsError(path, 'is shorter than the 8 bytes of a header length');
    }
    const headerBytes = length.readBigUInt64LE();
    if (headerBytes > BigInt(Math.min(HEADER_BYTES_MAX, stat.size - LENGTH_BYTES))) {
      throw new SafetensorsError(
        path,
        `claims a header of ${headerBytes} bytes, more than the file or the limit allows`,
      );
    }
    const header = Buffer.alloc(Number(headerBytes));
    if (readSync(file, header, 0, header.length, LENGTH_BYTES) < header.length) {
      throw new SafetensorsError(path, 'ends within its header');
    }
    if (header[0] !== '{'.charCodeAt(0))
      throw new SafetensorsError(path, 'has a header that does not begin with {');
    const dataStart = LENGTH_BYTES + header.length;
    return { text: decodeUtf8(path, header), dataStart, dataBytes: stat.size - dataStart };
  } finally {
    closeSync(file);
  }
}

function decodeUtf8(path: string, bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new SafetensorsError(path, 'has a header that is not UTF-8');
  }
}

function readMetadata(
  value: StrictJson | undefined,
  refuse: (problem: string) => never,
): Record<string, string> {
  if (value === undefined) return {};
  if (!(value instanceof Map)) return refuse('__metadata__ must be an object');
  for (const [key, text] of value) {
    if (typeof text !== 'string') refuse(`__metadata__ ${JSON.stringify(key)} must be a string`);
  }
  return Object.fromEntries(value) as Record<string, string>;
}

function readEntry(value: StrictJson, dataStart: number, refuse: (problem: string) => never): StoredTensor {
  if (!(value instanceof Map)) return refuse('must be an object');
  for (const key of value.keys()) {
    if (!['dtype', 'shape', 'data_offsets'].includes(key))
      refuse(`has the unknown key ${JSON.stringify(key)}`);
  }
  const [dtype, shape, offsets] = [value.get('dtype'), value.get('shape'), value.get('data_offsets')];
  if (typeof dtype !== 'string' || !Object.hasOwn(BYTES_PER_ELEMENT, dtype)) {
    return refuse(`has the unknown dtype ${JSON.stringify(dtype)}`);
  }
  if (!isIntegers(shape) || shape.length > RANK_MAX)
    return refuse(`needs a shape of at most ${RANK_MAX} sizes`);
  if (!isIntegers(offsets) || offsets.length !== 2) return refuse('needs two data_offsets');
  const elements = shape.reduce((product, size) => product * BigInt(size), 1n);
  if (elements > ELEMENTS_MAX) refuse(`has ${elements} elements, more than ${ELEMENTS_MAX}`);
  const [begin = 0, end = 0] = offsets;
  if (BigInt(end) - BigInt(begin) !== elements * BigInt(BYTES_PER_ELEMENT[dtype]!)) {
    refuse(`has data_offsets [${begin}, ${end}] that do not fit ${dtype} [${shape}]`);
  }
  return { dtype, shape, byteOffset: dataStart + begin, byteLength: end - begin };
}

function isIntegers(value: StrictJson | undefined): value is number[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'number');
}

function checkContiguous(
  tensors: ReadonlyMap<string, StoredTensor>,
  dataStart: number,
  dataBytes: number,
  refuse: (problem: string) => never,
): void {
  let next = dataStart;
  const byPosition = [...tensors].sort(
    ([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength,
  );
  for (const [name, { byteOffset, byteLength }] of byPosition) {
    if (byteOffset !== next) {
      refuse(
        `tensor ${JSON.stringify(name)} begins at byte ${byteOffset}, not at ${next}: a hole or an overlap`,
      );
    }
    next += byteLength;
  }
  const rest = dataStart + dataBytes - next;
  if (rest < 0) refuse(`ends ${-rest} bytes before its tensors do`);
  if (rest > 0) refuse(`holds ${rest} bytes that no tensor covers`);
}
