/**
 * `lathe models pull`: copies a model's configuration, tokenizer and safetensors from a Hugging Face hub into
 * <home>/models, every file checked against the hub's digest. Nothing that could run code is ever fetched.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { downloadFile, HubApiError, type ListFileEntry, listFiles } from '@huggingface/hub';
import type { BaseModelSource, Config } from '../config.ts';
import { checkModelConfig } from '../domain/base-models/describe.ts';
import { pulledFolder } from '../domain/base-models/register.ts';

/** The pull cannot be done; the message is for the person who asked. */
export class PullError extends Error {
  override name = 'PullError';
}

const WANTED =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|model\.safetensors\.index)\.json$|^chat_template\.jinja$|^[A-Za-z0-9._-]+\.safetensors$/;
const NEEDED = ['config.json', 'tokenizer.json'];
const MODEL_ID = /^[A-Za-z0-9][A-Za-z0-9._-]*\/[A-Za-z0-9][A-Za-z0-9._-]*$/;

/** Fetches `id` ("owner/name"), or finds it complete already. Throws PullError with the reason. */
export async function pullModel(
  config: Config,
  id: string,
  revision: string,
  say: (line: string) => void,
): Promise<BaseModelSource> {
  if (!MODEL_ID.test(id))
    throw new PullError(`'${id}' is not a model id; expected owner/name, such as Qwen/Qwen3-0.6B.`);
  const location = path.join(pulledFolder(config.home), id);
  const hub = {
    repo: id,
    revision,
    hubUrl: config.hubUrl,
    ...(config.hubToken && { accessToken: config.hubToken }),
  };
  try {
    const files = await filesOf(hub, id);
    checkModelConfig(await textOf(hub, 'config.json'), id); // before gigabytes come for a family we do not know
    await checkSpace(config.home, files);
    await mkdir(location, { recursive: true });
    await bringUpToDate(hub, files, location, say);
  } catch (error) {
    throw explained(error, id, config.hubUrl);
  }
  return { id, location };
}

type Hub = { repo: string; revision: string; hubUrl: string; accessToken?: string };

async function filesOf(hub: Hub, id: string): Promise<ListFileEntry[]> {
  const files: ListFileEntry[] = [];
  for await (const file of listFiles(hub))
    if (file.type === 'file' && WANTED.test(file.path)) files.push(file);
  const names = files.map((file) => file.path);
  for (const name of NEEDED) if (!names.includes(name)) throw new PullError(`${id} has no ${name}.`);
  if (!names.some((name) => name.endsWith('.safetensors'))) {
    throw new PullError(`${id} has no .safetensors file; other weight formats are not read.`);
  }
  // config.json last: its presence marks a complete folder.
  return files.sort((a, b) => Number(a.path === 'config.json') - Number(b.path === 'config.json'));
}

async function textOf(hub: Hub, name: string): Promise<string> {
  const blob = await downloadFile({ ...hub, path: name, xet: false });
  if (!blob) throw new PullError(`${hub.repo} has no ${name} at ${hub.revision}.`);
  return blob.text();
}

async function checkSpace(home: string, files: ListFileEntry[]): Promise<void> {
  await mkdir(home, { recursive: true });
  const { bavail, bsize } = await statfs(home);
  const needed = files.reduce((sum, file) => sum + file.size, 0);
  if (bavail * bsize < needed) {
    const gb = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
    throw new PullError(`The model needs ${gb(needed)}, but ${home} has ${gb(bavail * bsize)} free.`);
  }
}

/**
 * Fetches what is missing or different and removes what the hub no longer has (a leftover shard would be read). The
 * folder has no config.json meanwhile, so that one that was interrupted is not taken for a model.
 */
async function bringUpToDate(
  hub: Hub,
  files: ListFileEntry[],
  folder: string,
  say: (line: string) => void,
): Promise<void> {
  const config = path.join(folder, 'config.json');
  const missing: ListFileEntry[] = [];
  for (const file of files) {
    const target = path.join(folder, file.path);
    if (existsSync(target) && (await matches(target, file))) say(`${file.path}: already here`);
    else missing.push(file);
  }
  const names = new Set(files.map((file) => file.path));
  const extra = (await readdir(folder)).filter((name) => WANTED.test(name) && !names.has(name));
  if (missing.length === 0 && extra.length === 0) return;
  await rm(config, { force: true });
  for (const name of extra) await rm(path.join(folder, name));
  for (const file of files)
    if (missing.includes(file) || file.path === 'config.json') await fetchFile(hub, file, folder, say);
}

/** Downloads to a temporary name and moves it into place once size and digest are right. */
async function fetchFile(
  hub: Hub,
  file: ListFileEntry,
  folder: string,
  say: (line: string) => void,
): Promise<void> {
  const target = path.join(folder, file.path);
  say(`${file.path}: ${(file.size / 1e6).toFixed(1)} MB`);
  const blob = await downloadFile({ ...hub, path: file.path, xet: false });
  if (!blob) throw new PullError(`${hub.repo} has no ${file.path} at ${hub.revision}.`);
  const partial = `${target}.partial`;
  try {
    await pipeline(
      Readable.fromWeb(blob.stream() as Parameters<typeof Readable.fromWeb>[0]),
      createWriteStream(partial, { flush: true }),
    );
    if (!(await matches(partial, file))) {
      throw new PullError(
        `${file.path} of ${hub.repo} came with other bytes than the hub announced. Try again.`,
      );
    }
    await rename(partial, target);
  } finally {
    await rm(partial, { force: true });
  }
}

/** Large files carry their sha256; small ones the id of a git blob, which is the sha1 of a header and the bytes. */
async function matches(at: string, file: ListFileEntry): Promise<boolean> {
  if ((await stat(at)).size !== file.size) return false;
  const expected = file.lfs?.oid ?? file.oid;
  if (!expected) return false;
  const hash: Hash = file.lfs ? createHash('sha256') : createHash('sha1').update(`blob ${file.size}\0`);
  for await (const chunk of createReadStream(at)) hash.update(chunk);
  return hash.digest('hex') === expected;
}

function explained(error: unknown, id: string, hubUrl: string): Error {
  if (error instanceof HubApiError) {
    const [gated, missing] = [error.statusCode === 401 || error.statusCode === 403, error.statusCode === 404];
    if (gated)
      return new PullError(
        `${hubUrl} does not let us read ${id}: set HF_TOKEN to a token that may, or check the name.`,
      );
    if (missing) return new PullError(`${hubUrl} has no model ${id}, or not at this revision.`);
    return new PullError(`${hubUrl} answered ${error.statusCode} for ${id}: ${error.message}`, {
      cause: error,
    });
  }
  if (error instanceof TypeError && /fetch failed/.test(error.message)) {
    const why = (error.cause as Error | undefined)?.message ?? error.message;
    return new PullError(
      `Cannot reach ${hubUrl} (${why}). On a machine without internet, copy the model's folder here and name it in ` +
        `LATHE_BASE_MODELS=${id}=/path/to/folder.`,
      { cause: error },
    );
  }
  return error as Error;
}
