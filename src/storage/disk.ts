/**
 * Storage in a folder, for one machine (or several that share the disk). A put writes to .tmp, syncs, renames and syncs
 * the folder, so that a crash leaves the old object or the new one. Segments of keys are escaped into plain file names.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, opendir, readdir, rename, rm, rmdir, stat, unlink } from 'node:fs/promises';
import path from 'node:path';
import {
  type ByteRange,
  checkKey,
  chunksOf,
  Digest,
  type ListedObject,
  ObjectNotFound,
  type Storage,
  StorageUnavailable,
  type StoredObject,
} from './storage.ts';

const TEMPORARY = '.tmp';
/** A running put touches its file with every chunk; one untouched for an hour belongs to a process that is gone. */
const ABANDONED_AFTER_MS = 60 * 60 * 1000;
const MOVES_MAX = 10;
const FULL = ['ENOSPC', 'EDQUOT'];
/** A disk that fails, went read-only because of that, or a mount whose server is gone. */
const BROKEN = ['EIO', 'EROFS', 'ESTALE', 'ENXIO'];

/** Opens (and makes) the folder and removes what interrupted puts left there. */
export async function openDiskStorage(dir: string): Promise<Storage> {
  const root = path.resolve(dir);
  await mkdir(path.join(root, TEMPORARY), { recursive: true, mode: 0o700 });
  await sweepTemporary(root, ABANDONED_AFTER_MS);
  return {
    put: (key, body) => put(root, key, body),
    get: (key, range) => get(root, key, range),
    head: (key) => head(root, key),
    delete: (key) => remove(root, key),
    list: (prefix) => list(root, prefix),
    removeAbandoned: (olderThanMs) => sweepTemporary(root, Math.max(olderThanMs, ABANDONED_AFTER_MS)),
  };
}

/** Deletes temporary files untouched for `olderThanMs`; returns how many. */
export async function sweepTemporary(root: string, olderThanMs: number): Promise<number> {
  const folder = path.join(root, TEMPORARY);
  let swept = 0;
  for (const name of await readdir(folder)) {
    const file = path.join(folder, name);
    const found = await stat(file).catch(ignoreMissing);
    if (!found || Date.now() - found.mtimeMs < olderThanMs) continue;
    await rm(file, { force: true });
    swept++;
  }
  return swept;
}

async function put(
  root: string,
  key: string,
  body: AsyncIterable<Uint8Array> | Uint8Array,
): Promise<StoredObject> {
  const target = fileOf(root, key);
  const temporary = path.join(root, TEMPORARY, randomBytes(16).toString('hex'));
  const digest = new Digest();
  const file = await open(temporary, 'wx', 0o600).catch((error) => raise(root, error));
  try {
    try {
      for await (const chunk of digest.through(chunksOf(body))) await writeFully(file, chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await moveInto(target, temporary);
  } catch (error) {
    await rm(temporary, { force: true });
    return raise(root, error);
  }
  await syncFolder(path.dirname(target)).catch(ignoreMissing); // gone with the object, deleted by now
  return digest.result();
}

/** Renames into a folder that a delete of its last object may remove at the same moment. */
async function moveInto(target: string, temporary: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await makeFolder(path.dirname(target));
      return await rename(temporary, target);
    } catch (error) {
      if (!isMissing(error) || attempt === MOVES_MAX) throw error;
    }
  }
}

async function writeFully(file: Awaited<ReturnType<typeof open>>, chunk: Uint8Array): Promise<void> {
  let done = 0;
  while (done < chunk.byteLength)
    done += (await file.write(chunk, done, chunk.byteLength - done)).bytesWritten;
}

async function get(root: string, key: string, range?: ByteRange) {
  const file = await open(fileOf(root, key)).catch(async (error) => {
    await mustBeThere(root, error);
    if (isMissing(error)) throw new ObjectNotFound(key);
    return raise(root, error);
  });
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new ObjectNotFound(key);
    if (range && range.start >= found.size) {
      throw new RangeError(`'${key}' has ${found.size} bytes; a range cannot start at ${range.start}.`);
    }
    return file.createReadStream({ start: range?.start ?? 0, end: range?.end, highWaterMark: 1 << 18 });
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function head(root: string, key: string): Promise<{ bytes: number } | null> {
  const found = await stat(fileOf(root, key)).catch(async (error) => {
    await mustBeThere(root, error);
    return ignoreMissing(error);
  });
  return found?.isFile() ? { bytes: found.size } : null;
}

async function remove(root: string, key: string): Promise<void> {
  const file = fileOf(root, key);
  const gone = await unlink(file).then(
    () => true,
    async (error) => {
      await mustBeThere(root, error);
      return ignoreMissing(error);
    },
  );
  if (!gone) return;
  // Folders that became empty go too, or listing would walk through all that ever was.
  let folder = path.dirname(file);
  while (folder !== root && (await removeIfEmpty(folder))) folder = path.dirname(folder);
  await syncFolder(folder).catch(ignoreMissing);
}

async function removeIfEmpty(folder: string): Promise<boolean> {
  try {
    await rmdir(folder);
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(code)) return false;
    throw error;
  }
}

async function* list(root: string, prefix: string): AsyncGenerator<ListedObject> {
  const slash = prefix.lastIndexOf('/');
  const parents = slash < 0 ? [] : prefix.slice(0, slash).split('/');
  if (parents.some((segment) => segment === '')) return;
  for await (const found of walk(path.join(root, ...parents.map(escapeSegment)), parents)) {
    if (found.key.startsWith(prefix)) yield found;
  }
}

async function* walk(folder: string, segments: string[]): AsyncGenerator<ListedObject> {
  const entries = await opendir(folder).catch(ignoreMissing);
  if (!entries) return;
  for await (const entry of entries) {
    if (segments.length === 0 && entry.name === TEMPORARY) continue;
    const inside = [...segments, unescapeSegment(entry.name)];
    const at = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* walk(at, inside);
    else {
      const found = await stat(at).catch(ignoreMissing); // deleted while we list
      if (found) yield { key: inside.join('/'), bytes: found.size, modified: found.mtime };
    }
  }
}

function fileOf(root: string, key: string): string {
  checkKey(key);
  return path.join(root, ...key.split('/').map(escapeSegment));
}

/** Letters, digits, '-', '_' and inner dots stay; every other byte becomes %XX. Names start with no dot. */
function escapeSegment(segment: string): string {
  return [...Buffer.from(segment)]
    .map((byte, i) => {
      const char = String.fromCharCode(byte);
      const plain = /[A-Za-z0-9_-]/.test(char) || (char === '.' && i > 0);
      return plain ? char : `%${byte.toString(16).padStart(2, '0').toUpperCase()}`;
    })
    .join('');
}

const unescapeSegment = (name: string) => decodeURIComponent(name);

/** mkdir -p whose new entries survive a power cut: each parent of a new folder is synced. */
async function makeFolder(folder: string): Promise<void> {
  const first = await mkdir(folder, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  for (let at = path.dirname(folder); at.length >= path.dirname(first).length; at = path.dirname(at)) {
    await syncFolder(at);
    if (at === path.dirname(at)) break;
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** @throws StorageUnavailable when `error` says that a file is missing because the whole folder is. */
async function mustBeThere(root: string, error: unknown): Promise<void> {
  if (!isMissing(error) || (await stat(path.join(root, TEMPORARY)).catch(ignoreMissing))) return;
  throw new StorageUnavailable('The storage folder is not there.', { cause: error });
}

/** Throws `error`, as StorageUnavailable where the disk is at fault. */
async function raise(root: string, error: unknown): Promise<never> {
  await mustBeThere(root, error);
  const code = (error as NodeJS.ErrnoException)?.code ?? '';
  if (FULL.includes(code)) throw new StorageUnavailable('The storage is full.', { full: true, cause: error });
  if (BROKEN.includes(code)) throw new StorageUnavailable('The storage disk has failed.', { cause: error });
  throw error;
}

const isMissing = (error: unknown) =>
  ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');

function ignoreMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}
