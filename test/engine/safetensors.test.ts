import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { openSafetensors, SafetensorsError, writeSafetensors } from '../../workers/engine/io/safetensors.ts';
import { openWeightFiles } from '../../workers/engine/io/weight-files.ts';
import { scope, Tensor } from '../../workers/engine/tensor.ts';

const device = openDevice({ kind: 'cpu' });
const dir = mkdtempSync(join(tmpdir(), 'lathe-safetensors-'));
let files = 0;

afterAll(() => rmSync(dir, { recursive: true }));

/** A file with this header text and `dataBytes` zero bytes; the length field is the header's unless given. */
function file(header: string | Uint8Array, dataBytes = 0, length?: bigint): string {
  const text = Buffer.from(header);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(length ?? BigInt(text.length));
  const path = join(dir, `${files++}.safetensors`);
  writeFileSync(path, Buffer.concat([head, text, Buffer.alloc(dataBytes)]));
  return path;
}

const entry = (dtype: string, shape: number[], begin: number, end: number) =>
  JSON.stringify({ dtype, shape, data_offsets: [begin, end] });

describe('openSafetensors', () => {
  it.each<[string, () => string, RegExp]>([
    ['a file shorter than 8 bytes', () => shortFile(), /shorter than the 8 bytes/],
    ['a header longer than the file', () => file('{}', 0, 1000n), /claims a header of 1000 bytes/],
    ['a header length of 2^63', () => file('{}', 0, 2n ** 63n), /claims a header/],
    ['a header beyond the limit', () => file('{}', 0, 100_000_001n), /claims a header/],
    ['a header that is no object', () => file('[]'), /does not begin with \{/],
    ['a broken header', () => file('{"a": '), /not strict JSON/],
    ['text after the header', () => file('{}x'), /not strict JSON: unexpected text/],
    ['bytes that are not UTF-8', () => file(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), /not UTF-8/],
    ['deep nesting', () => file(`{"a":${'['.repeat(50)}${']'.repeat(50)}}`), /nesting deeper than 4/],
    [
      'a duplicate tensor',
      () => file(`{"a":${entry('F32', [1], 0, 4)},"a":${entry('F32', [1], 4, 8)}}`, 8),
      /duplicate key "a"/,
    ],
    [
      'a duplicate key in a tensor',
      () => file('{"a":{"dtype":"F32","dtype":"BF16","shape":[1],"data_offsets":[0,4]}}', 4),
      /duplicate key "dtype"/,
    ],
    [
      'metadata that is not text',
      () => file('{"__metadata__":{"a":1}}'),
      /__metadata__ "a" must be a string/,
    ],
    ['an unknown dtype', () => file(`{"a":${entry('F31', [1], 0, 4)}}`, 4), /unknown dtype "F31"/],
    ['a dtype named like a method', () => file(`{"a":${entry('toString', [1], 0, 4)}}`, 4), /unknown dtype/],
    [
      'a negative size',
      () => file('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', 4),
      /non-negative integer/,
    ],
    [
      'a fractional size',
      () => file('{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}', 4),
      /non-negative integer/,
    ],
    ['nine dimensions', () => file(`{"a":${entry('F32', Array(9).fill(1), 0, 4)}}`, 4), /at most 8 sizes/],
    [
      'a product that overflows',
      () => file(`{"a":${entry('F32', [2 ** 31, 2 ** 31, 4], 0, 4)}}`, 4),
      /elements, more than/,
    ],
    [
      'offsets that do not fit the shape',
      () => file(`{"a":${entry('F32', [2], 0, 4)}}`, 4),
      /do not fit F32 \[2\]/,
    ],
    ['offsets in the wrong order', () => file(`{"a":${entry('F32', [1], 4, 0)}}`, 4), /do not fit/],
    [
      'a hole',
      () => file(`{"a":${entry('F32', [1], 0, 4)},"b":${entry('F32', [1], 8, 12)}}`, 12),
      /a hole or an overlap/,
    ],
    [
      'an overlap',
      () => file(`{"a":${entry('F32', [2], 0, 8)},"b":${entry('F32', [1], 4, 8)}}`, 8),
      /a hole or an overlap/,
    ],
    ['data that does not begin at 0', () => file(`{"a":${entry('F32', [1], 4, 8)}}`, 8), /not at/],
    [
      'a missing end',
      () => file(`{"a":${entry('F32', [2], 0, 8)}}`, 4),
      /ends 4 bytes before its tensors do/,
    ],
    [
      'a tail that no tensor covers',
      () => file(`{"a":${entry('F32', [1], 0, 4)}}`, 8),
      /holds 4 bytes that no tensor covers/,
    ],
    [
      'an unknown key',
      () => file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4),
      /unknown key "x"/,
    ],
  ])('refuses %s', (_, make, message) => {
    const open = () => openSafetensors(make());
    expect(open).toThrow(SafetensorsError);
    expect(open).toThrow(message);
  });

  it('reads F32, BF16 and F16, aligned or not, and scalars', () => {
    const header = `{"f":${entry('F32', [2], 1, 9)},"h":${entry('F16', [3], 9, 15)},"s":${entry('BF16', [], 15, 17)},"u":${entry('U8', [1], 0, 1)}}`;
    const path = file(header, 17);
    const bytes = readFileSync(path);
    const at = bytes.length - 17;
    bytes.writeFloatLE(1.5, at + 1);
    bytes.writeFloatLE(-3, at + 5);
    for (const [i, half] of [0x3c00, 0x8001, 0x7bff].entries()) bytes.writeUInt16LE(half, at + 9 + 2 * i);
    bytes.writeUInt16LE(0x4049, at + 15);
    writeFileSync(path, bytes);
    scope(() => {
      const opened = openSafetensors(path);
      expect([...opened.load(device, 'f').toFloat32()]).toEqual([1.5, -3]);
      expect([...opened.load(device, 'f', 'bf16').toFloat32()]).toEqual([1.5, -3]);
      expect([...opened.load(device, 'h').toFloat32()]).toEqual([1, -(2 ** -24), 65504]);
      expect([...opened.load(device, 's').toFloat32()]).toEqual([3.140625]);
      expect(() => opened.load(device, 'u')).toThrow(/dtype U8/);
      expect(() => opened.load(device, 'x')).toThrow(/has no tensor "x"/);
    });
  });
});

function shortFile(): string {
  const path = join(dir, `${files++}.safetensors`);
  writeFileSync(path, 'abc');
  return path;
}

describe('writeSafetensors', () => {
  it('gives the same bytes whatever the order, and reads back what was written', () => {
    scope(() => {
      const a = Tensor.fromFloat32(device, Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]);
      const b = a.cast('bf16');
      const [one, two] = [join(dir, 'one.safetensors'), join(dir, 'two.safetensors')];
      writeSafetensors(one, [
        ['b', b],
        ['a', a],
      ] as const);
      writeSafetensors(
        two,
        new Map([
          ['a', a],
          ['b', b],
        ]),
      );
      expect(readFileSync(one)).toEqual(readFileSync(two));
      const opened = openSafetensors(one);
      expect(opened.metadata).toEqual({ format: 'pt' });
      expect([...opened.tensors.keys()]).toEqual(['a', 'b']);
      expect(opened.load(device, 'a').toBytes()).toEqual(a.toBytes());
      expect(opened.load(device, 'b').toBytes()).toEqual(b.toBytes());
      expect(readdirSync(dir).filter((name) => name.endsWith('.partial'))).toEqual([]);
    });
  });

  it('refuses two tensors of one name and leaves no file', () => {
    scope(() => {
      const a = Tensor.zeros(device, [1]);
      const path = join(dir, 'twice.safetensors');
      expect(() =>
        writeSafetensors(path, [
          ['a', a],
          ['a', a],
        ] as const),
      ).toThrow(/two tensors are named "a"/);
      expect(readdirSync(dir)).not.toContain('twice.safetensors');
    });
  });
});

describe('openWeightFiles', () => {
  const folder = (weightMap: unknown) => {
    const path = mkdtempSync(join(dir, 'model-'));
    writeFileSync(join(path, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }));
    return path;
  };

  it.each(['../0.safetensors', '/etc/passwd', 'a/b.safetensors', 'weights.bin', '..', 3])(
    'refuses the shard name %s',
    (shard) => {
      expect(() => openWeightFiles(folder({ a: shard }))).toThrow(/is not the name of a safetensors file/);
    },
  );

  it('refuses links that leave the folder, follows those into the cache it belongs to', () => {
    const real = file(`{"a":${entry('F32', [1], 0, 4)}}`, 4);
    const outside = folder({ a: 'x.safetensors' });
    symlinkSync(real, join(outside, 'x.safetensors'));
    expect(() => openWeightFiles(outside)).toThrow(/links outside its folder/);

    const cache = mkdtempSync(join(dir, 'cache-'));
    mkdirSync(join(cache, 'blobs'));
    mkdirSync(join(cache, 'snapshots', 'main'), { recursive: true });
    writeFileSync(join(cache, 'blobs', 'sha'), readFileSync(real));
    symlinkSync('../../blobs/sha', join(cache, 'snapshots', 'main', 'model.safetensors'));
    expect([...openWeightFiles(join(cache, 'snapshots', 'main')).names()]).toEqual(['a']);
  });

  it('refuses a tensor that its shard lacks, a folder without weights, and pickles', () => {
    const path = folder({ a: 'x.safetensors', b: 'x.safetensors' });
    writeFileSync(join(path, 'x.safetensors'), readFileSync(file(`{"a":${entry('F32', [1], 0, 4)}}`, 4)));
    expect(() => openWeightFiles(path)).toThrow(/lacks the tensor "b"/);
    const empty = mkdtempSync(join(dir, 'empty-'));
    writeFileSync(join(empty, 'pytorch_model.bin'), 'x');
    expect(() => openWeightFiles(empty)).toThrow(/pickle files are not read/);
  });
});
