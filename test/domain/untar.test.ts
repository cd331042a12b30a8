/** The tar reader against the system's tar, in chunks of every awkward size, and against random damage. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ByteReader } from '../../src/domain/adapters/byte-reader.ts';
import { tarSegments } from '../../src/domain/adapters/tar.ts';
import { readTar } from '../../src/domain/adapters/untar.ts';
import { ApiError } from '../../src/errors.ts';

const root = mkdtempSync(path.join(tmpdir(), 'lathe-tar-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function* chunks(bytes: Buffer, size: number) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** Path → text of every file; every second one is left unread. */
async function list(tar: Buffer, size = 1000, readAll = true): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  let turn = 0;
  for await (const { path: name, bytes, body } of readTar(new ByteReader(chunks(tar, size)))) {
    if (!readAll && turn++ % 2 === 0) {
      found[name] = `${bytes} bytes`;
      continue;
    }
    const parts: Uint8Array[] = [];
    for await (const part of body) parts.push(part);
    found[name] = Buffer.concat(parts).toString();
  }
  return found;
}

describe('tar', () => {
  const long = `${'deep/'.repeat(30)}file.txt`;
  const files = { 'a.txt': 'x'.repeat(512), 'b.txt': 'y'.repeat(513), 'empty.txt': '', [long]: 'far down' };
  const folder = path.join(root, 'f');
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), text);
  }
  const expected = Object.fromEntries(Object.entries(files).map(([name, text]) => [`f/${name}`, text]));

  it.each(['ustar', 'gnu', 'posix'])('of the format %s is read, whatever the chunks', async (format) => {
    const tar = execFileSync('tar', ['-C', root, `--format=${format}`, '-cf', '-', 'f']);
    for (const size of [1, 511, 512, 513, 100_000]) expect(await list(tar, size)).toEqual(expected);
    expect(Object.keys(await list(tar, 700, false)).sort()).toEqual(Object.keys(expected).sort());
  });

  it('of this service is read by both', async () => {
    const entries = Object.entries(files)
      .filter(([name]) => name.length < 100)
      .map(([name, text]) => ({ path: name, content: Buffer.from(text) }));
    const tar = Buffer.concat(tarSegments(entries, new Date(1e12)) as Uint8Array[]);
    expect(tar.length % 512).toBe(0);
    expect(await list(tar)).toEqual(
      Object.fromEntries(Object.entries(files).filter(([n]) => n.length < 100)),
    );
    writeFileSync(path.join(root, 'own.tar'), tar);
    const listed = execFileSync('tar', ['-tvf', path.join(root, 'own.tar')], { encoding: 'utf8' });
    expect(listed.trim().split('\n')).toHaveLength(3);
    expect(listed).toMatch(/-rw-r--r-- 0\/0\s+513 2001-09-09/);
  });

  it('announces sizes that octal digits cannot hold', async () => {
    const bytes = 9 * 1024 ** 3;
    const [header] = tarSegments(
      [{ path: 'large', content: { key: 'k', bytes } }],
      new Date(0),
    ) as Uint8Array[];
    const entries = readTar(new ByteReader(chunks(Buffer.from(header!), 512)));
    expect((await entries.next()).value).toMatchObject({ path: 'large', bytes });
  });

  it('that is damaged is refused or read, never anything else', async () => {
    const tar = execFileSync('tar', ['-C', root, '--format=posix', '-cf', '-', 'f']);
    let refused = 0;
    for (let i = 0; i < 400; i++) {
      const damaged = Buffer.from(tar);
      for (let k = 0; k < 3; k++)
        damaged[(i * 7919 + k * 104_729) % Math.min(tar.length, 12_000)]! ^= 1 << (i % 8);
      const error = await list(damaged, 4096).then(
        () => null,
        (e: unknown) => e,
      );
      if (error === null) continue;
      expect(error).toBeInstanceOf(ApiError);
      refused++;
    }
    expect(refused).toBeGreaterThan(50);
  });
});
