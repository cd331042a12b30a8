/**
 * The commit protocol of a checkpoint folder: files, each synced, then a manifest with their sha256, then one rename.
 * A folder under its final name is whole; anything else is garbage. Knows nothing of models, storage or the database.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import type { Failpoints } from './failpoints.ts';

export const MANIFEST = 'manifest.json';
export const FORMAT_VERSION = 1;

/** The training state beside the model's own files; not part of what is published as a model. */
export const STATE_FILES = {
  optimizer: 'optimizer.safetensors',
  trainer: 'trainer_state.json',
  metrics: 'step_metrics.csv',
  /** Preference jobs only: see reference.ts. */
  reference: 'reference_logprobs.f64',
} as const;

export interface ManifestFile {
  name: string;
  bytes: number;
  sha256: string;
}

const manifestSchema = z.strictObject({
  format_version: z.literal(FORMAT_VERSION),
  step: z.int().min(0),
  files: z.array(
    z.strictObject({
      // One plain name: a manifest read back from storage must not point outside its folder.
      name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/),
      bytes: z.int().min(0),
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
});
export type Manifest = z.infer<typeof manifestSchema>;

/** A folder that cannot be trusted, and why. */
export class CheckpointDamaged extends Error {
  override name = 'CheckpointDamaged';
}

/** sha256 (hex) and size of a file, streamed. */
async function digestFile(file: string): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
    hash.update(chunk as Buffer);
    bytes += (chunk as Buffer).byteLength;
  }
  return { bytes, sha256: hash.digest('hex') };
}

/** Names a set of model files: equal digests mean equal bytes under equal names. */
export function digestOf(files: readonly ManifestFile[]): string {
  const lines = files.map((f) => `${f.sha256} ${f.bytes} ${f.name}\n`).sort();
  return createHash('sha256').update(lines.join('')).digest('hex');
}

/** The files that make the model, without the training state and the manifest. */
export function modelFilesOf(files: readonly ManifestFile[]): ManifestFile[] {
  const state: string[] = [...Object.values(STATE_FILES), MANIFEST];
  return files.filter((file) => !state.includes(file.name)).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/**
 * Writes a folder so that it exists whole or not at all: `fill` writes the files into a temporary sibling of `dir`.
 * @returns the manifest. When anything throws, nothing is left under `dir` and the temporary folder is removed.
 */
export async function commitFolder(
  dir: string,
  step: number,
  fill: (temporary: string) => Promise<void>,
  failpoints: Failpoints,
): Promise<Manifest> {
  const temporary = path.join(path.dirname(dir), `tmp-${path.basename(dir)}`);
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  try {
    await fill(temporary);
    failpoints.hit(`checkpoint.${step}.after_files`);
    const files: ManifestFile[] = [];
    for (const name of (await readdir(temporary)).sort()) {
      await sync(path.join(temporary, name));
      files.push({ name, ...(await digestFile(path.join(temporary, name))) });
    }
    const manifest: Manifest = { format_version: FORMAT_VERSION, step, files };
    await writeFile(path.join(temporary, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
    await sync(path.join(temporary, MANIFEST));
    failpoints.hit(`checkpoint.${step}.before_rename`);
    await rename(temporary, dir);
    await sync(path.dirname(dir));
    failpoints.hit(`checkpoint.${step}.after_rename`);
    return manifest;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** Reads a folder's manifest and checks every file against it. @throws CheckpointDamaged naming the file. */
export async function verifyFolder(dir: string): Promise<Manifest> {
  const manifest = await readManifest(dir);
  for (const file of manifest.files) {
    const found = await digestFile(path.join(dir, file.name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') throw new CheckpointDamaged(`${file.name} is missing`);
      throw error;
    });
    if (found.bytes !== file.bytes) {
      throw new CheckpointDamaged(`${file.name} has ${found.bytes} bytes, not ${file.bytes}`);
    }
    if (found.sha256 !== file.sha256) throw new CheckpointDamaged(`${file.name} does not match its sha256`);
  }
  return manifest;
}

async function readManifest(dir: string): Promise<Manifest> {
  let text: string;
  try {
    text = await readFile(path.join(dir, MANIFEST), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new CheckpointDamaged(`${MANIFEST} is missing`);
    throw error;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new CheckpointDamaged(`${MANIFEST} is not JSON`);
  }
  const parsed = manifestSchema.safeParse(value);
  if (!parsed.success)
    throw new CheckpointDamaged(`${MANIFEST} is not valid: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

/** Makes a file's bytes, or a folder's entries, durable. */
async function sync(target: string): Promise<void> {
  const handle = await open(target, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
