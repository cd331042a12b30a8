/** Reading and writing safetensors files. Files are mapped, not read: pages load when an op touches them. */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Device } from '../device.ts';
import { type FloatDType, keep, Tensor } from '../tensor.ts';
import { syncDirectory } from './atomic-write.ts';
import { halfToFloat32 } from './half.ts';
import { readSafetensorsHeader, SafetensorsError, type StoredTensor } from './safetensors-header.ts';

export { SafetensorsError, type StoredTensor } from './safetensors-header.ts';

export interface SafetensorsFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: Readonly<Record<string, string>>;
  /**
   * The tensor on `device`, as `dtype` (default: as stored). On the CPU and without a conversion the result is a
   * read-only view of the mapped file. The caller's scope owns it.
   * @throws SafetensorsError when there is no such tensor or its dtype cannot be converted
   */
  load(device: Device, name: string, dtype?: FloatDType): Tensor;
}

const FLOAT_DTYPES: Readonly<Record<string, FloatDType>> = { F32: 'f32', BF16: 'bf16' };
const STORED_DTYPES = { f32: 'F32', bf16: 'BF16', i32: 'I32', u8: 'U8' } as const;

/** Opens a file after checking its header. @throws SafetensorsError when the header is not strictly valid */
export function openSafetensors(path: string): SafetensorsFile {
  const { tensors, metadata } = readSafetensorsHeader(path);
  let mapped: Tensor | null = null;
  return {
    path,
    tensors,
    metadata,
    load(device, name, dtype) {
      const stored = tensors.get(name);
      if (stored === undefined) throw new SafetensorsError(path, `has no tensor ${JSON.stringify(name)}`);
      if (mapped === null) {
        const handle = device.native.mapFile(path);
        mapped = keep(new Tensor(device, handle, device.native.tensorInfo(handle).dims, 'u8'));
      }
      return loadStored(mapped, path, name, stored, dtype);
    },
  };
}

function loadStored(
  file: Tensor,
  path: string,
  name: string,
  stored: StoredTensor,
  dtype?: FloatDType,
): Tensor {
  const { device } = file;
  const shape = stored.shape.length === 0 ? [1] : stored.shape;
  const source = FLOAT_DTYPES[stored.dtype];
  if (source === undefined) {
    if (stored.dtype !== 'F16') {
      throw new SafetensorsError(
        path,
        `tensor ${JSON.stringify(name)} has dtype ${stored.dtype}, not a usable float`,
      );
    }
    const bits = new Uint16Array(stored.byteLength / 2);
    device.native.tensorRead(file.handle, bits, stored.byteOffset);
    return Tensor.fromFloat32(device, halfToFloat32(bits), shape, dtype ?? 'f32');
  }
  const view = onDevice(alignedView(file, stored, shape, source));
  if (dtype === undefined || dtype === source) return view;
  const converted = view.cast(dtype);
  view.dispose();
  return converted;
}

/** The mapping lies in host memory: other devices get a copy of the tensor. */
function onDevice(view: Tensor): Tensor {
  const { device, shape, dtype } = view;
  if (device.kind === 'cpu') return view;
  const copy = Tensor.empty(device, shape, dtype);
  device.native.copy(copy.handle, view.handle);
  view.dispose();
  return copy;
}

/** A view where the data is aligned for its dtype (the format does not promise it), else a copy. */
function alignedView(
  file: Tensor,
  stored: StoredTensor,
  shape: readonly number[],
  dtype: FloatDType,
): Tensor {
  const { device } = file;
  const { native } = device;
  const elementBytes = dtype === 'f32' ? 4 : 2;
  if (stored.byteOffset % elementBytes === 0) {
    return new Tensor(
      device,
      native.tensorView(file.handle, stored.byteOffset, shape as number[], dtype),
      shape,
      dtype,
    );
  }
  const bytes = new Uint8Array(stored.byteLength);
  native.tensorRead(file.handle, bytes, stored.byteOffset);
  const copy = new Tensor(device, native.tensorCreate(dtype, shape), shape, dtype);
  native.tensorWrite(copy.handle, bytes);
  return copy;
}

const CHUNK_BYTES = 1 << 24;

/**
 * Writes tensors under sorted names, so equal content gives equal bytes; the file appears under its name only when it
 * is complete and on disk (temporary file, fsync, rename).
 */
export function writeSafetensors(
  path: string,
  tensors: Iterable<readonly [string, Tensor]>,
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): void {
  const sorted = [...tensors].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  const header: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const [name, tensor] of sorted) {
    if (name in header) throw new Error(`writeSafetensors: two tensors are named ${JSON.stringify(name)}`);
    const range = [offset, offset + tensor.bytes];
    header[name] = { dtype: STORED_DTYPES[tensor.dtype], shape: tensor.shape, data_offsets: range };
    offset += tensor.bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Math.ceil(json.length / 8) * 8;
  const head = Buffer.alloc(8 + padded, ' ');
  head.writeBigUInt64LE(BigInt(padded));
  json.copy(head, 8);

  const temporary = `${path}.partial`;
  const file = openSync(temporary, 'w');
  try {
    writeAll(file, head);
    for (const [, tensor] of sorted) writeTensor(file, tensor);
    fsyncSync(file);
  } catch (error) {
    closeSync(file);
    rmSync(temporary, { force: true });
    throw error;
  }
  closeSync(file);
  renameSync(temporary, path);
  syncDirectory(dirname(path));
}

function writeTensor(file: number, tensor: Tensor): void {
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, tensor.bytes));
  for (let start = 0; start < tensor.bytes; start += chunk.length) {
    const part = chunk.subarray(0, Math.min(chunk.length, tensor.bytes - start));
    tensor.device.native.tensorRead(tensor.handle, part, start);
    writeAll(file, part);
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}
