/** Adapters and archives for tests: safetensors written from plain numbers, and tar files nobody should accept. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { tarSegments } from '../../src/domain/adapters/tar.ts';

export interface PlainTensor {
  dtype: string;
  shape: number[];
  bytes: Buffer;
}

export function readTensors(file: Buffer): Map<string, PlainTensor> {
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes));
  const tensors = new Map<string, PlainTensor>();
  for (const [name, entry] of Object.entries<{ dtype: string; shape: number[]; data_offsets: number[] }>(
    header,
  )) {
    if (name === '__metadata__') continue;
    const [begin = 0, end = 0] = entry.data_offsets;
    const at = 8 + headerBytes;
    tensors.set(name, { dtype: entry.dtype, shape: entry.shape, bytes: file.subarray(at + begin, at + end) });
  }
  return tensors;
}

export function writeTensors(tensors: Map<string, PlainTensor>): Buffer {
  let offset = 0;
  const header: Record<string, object> = {};
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...[...tensors.values()].map(({ bytes }) => bytes)]);
}

/** A tar of these files, as this service writes it. */
export function tarOf(files: Record<string, Buffer | string>): Buffer {
  const entries = Object.entries(files).map(([name, text]) => ({ path: name, content: Buffer.from(text) }));
  return Buffer.concat(tarSegments(entries, new Date(0)) as Uint8Array[]);
}

/** The same with the header's type and path changed and its checksum made right again. */
export function tamper(tar: Buffer, change: (header: Buffer) => void): Buffer {
  const copy = Buffer.from(tar);
  const header = copy.subarray(0, 512);
  change(header);
  header.write('        ', 148);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return copy;
}

/** Unpacks with the system's tar; returns the one folder in it and its files. */
export function unpack(tar: Buffer): { folder: string; files: string[]; read(name: string): Buffer } {
  const root = mkdtempSync(path.join(tmpdir(), 'lathe-untar-'));
  writeFileSync(path.join(root, 'a.tar'), tar);
  execFileSync('tar', ['-xf', 'a.tar'], { cwd: root });
  const [name = ''] = readdirSync(root).filter((each) => each !== 'a.tar');
  const folder = path.join(root, name);
  return { folder, files: readdirSync(folder).sort(), read: (file) => readFileSync(path.join(folder, file)) };
}

/** A tar made by the system's own program. */
export function packed(folder: string, ...options: string[]): Buffer {
  const [parent, name] = [path.dirname(folder), path.basename(folder)];
  return execFileSync('tar', ['-C', parent, ...options, '-cf', '-', name], { maxBuffer: 1 << 28 });
}
