/**
 * Which base model lies in a folder: one sha256 over every file that decides what it computes. Weights are read once and
 * remembered with their size, times and inode, so that the next start asks the file system alone.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { weightFileNames } from './engine/io/weight-files.ts';

/** What the engine reads beside the weights; those that exist count. */
const TEXT_FILES = [
  'chat_template.jinja',
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
];
/** A file changed this shortly before it was read could change again without a new time stamp: it is not remembered. */
const SETTLED_NS = 2_000_000_000n;
const CHUNK_BYTES = 1 << 20;

const rememberedSchema = z.record(z.string(), z.string().regex(/^[0-9a-f]{64}$/));

export interface BaseFiles {
  /** sha256, hex: equal for folders whose models compute the same. */
  digest: string;
  /** What had to be read for it; 0 when everything was remembered. */
  hashedBytes: number;
  /** @throws BaseFilesChanged when the folder no longer holds what was looked at: what was loaded meanwhile is unknown. */
  verify(): Promise<void>;
}

/** The folder of a base model was changed while it was being opened. */
export class BaseFilesChanged extends Error {
  override name = 'BaseFilesChanged';

  constructor(folder: string) {
    super(`the files of the base model in ${folder} were replaced while it was being opened`);
  }
}

interface FoundFile {
  name: string;
  bytes: number;
  /** Device, inode, size and times: a file that was written, copied or moved has another. */
  identity: string;
  changedNs: bigint;
}

/** Where the workers of this home remember what they have read. */
export const baseDigestFolder = (home: string): string => path.join(home, 'cache', 'base-digests');

/**
 * Digest of the model in `folder`; what was read is remembered in `cacheFolder` (one small file per folder, safe to
 * remove). `onUnremembered` hears why that could not be written. @throws when a file cannot be read; the signal's reason
 */
export async function digestBase(
  folder: string,
  cacheFolder: string,
  onUnremembered: (error: unknown) => void,
  signal?: AbortSignal,
): Promise<BaseFiles> {
  const memory = path.join(cacheFolder, `${sha256(path.resolve(folder)).slice(0, 32)}.json`);
  const remembered = await recall(memory);
  const found = await look(folder);
  const settledBefore = BigInt(Date.now()) * 1_000_000n - SETTLED_NS;
  const kept: Record<string, string> = {};
  const whole = createHash('sha256');
  let hashedBytes = 0;
  for (const { name, bytes, identity, changedNs } of found) {
    let digest = remembered[identity];
    if (digest === undefined) {
      digest = await hashFile(path.join(folder, name), signal);
      hashedBytes += bytes;
    }
    if (changedNs < settledBefore) kept[identity] = digest;
    whole.update(`${name}\n${digest}\n`);
  }
  const verify = async (): Promise<void> => {
    const now = await look(folder);
    const isSame =
      now.length === found.length && now.every((file, i) => file.identity === found[i]!.identity);
    if (!isSame) throw new BaseFilesChanged(folder);
  };
  await verify();
  if (hashedBytes > 0) await remember(memory, kept).catch(onUnremembered);
  return { digest: whole.digest('hex'), hashedBytes, verify };
}

/** The files that count, by name. */
async function look(folder: string): Promise<FoundFile[]> {
  const names = [...TEXT_FILES, ...weightFileNames(folder)].sort();
  const found: FoundFile[] = [];
  for (const name of names) {
    const file = await stat(path.join(folder, name), { bigint: true }).catch(
      (error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT' && TEXT_FILES.includes(name)) return null;
        throw error;
      },
    );
    if (!file) continue;
    const { dev, ino, size, mtimeNs, ctimeNs } = file;
    const identity = [dev, ino, size, mtimeNs, ctimeNs].join('-');
    found.push({ name, bytes: Number(size), identity, changedNs: ctimeNs > mtimeNs ? ctimeNs : mtimeNs });
  }
  return found;
}

async function hashFile(file: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file, { highWaterMark: CHUNK_BYTES }), hash, { signal });
  return hash.digest('hex');
}

/** Digests by identity. A file that is missing or damaged only costs reading again. */
async function recall(memory: string): Promise<Record<string, string>> {
  const text = await readFile(memory, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '{}';
    throw error;
  });
  try {
    return rememberedSchema.parse(JSON.parse(text));
  } catch {
    return {};
  }
}

async function remember(memory: string, digests: Record<string, string>): Promise<void> {
  await mkdir(path.dirname(memory), { recursive: true, mode: 0o700 });
  const partial = `${memory}.${process.pid}`; // several workers may look at one folder
  await writeFile(partial, `${JSON.stringify(digests, null, 2)}\n`);
  await rename(partial, memory);
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
