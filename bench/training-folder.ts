/**
 * A model of a shape with random weights and a fresh adapter, as Hugging Face and PEFT folders: written once into the
 * cache folder, by a process of its own, because the peak memory of who trains on them is measured.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { openDevice } from '../workers/engine/device.ts';
import { createModel } from '../workers/engine/models/index.ts';
import { LoraAdapter } from '../workers/engine/peft/lora.ts';
import { shape } from './shapes.ts';

/** The adapter of the training benches: all linears, lora_alpha = 2r. */
export const adapterConfig = (r: number) => ({
  ...{ r, lora_alpha: 2 * r, lora_dropout: 0, use_rslora: false },
  target_modules: 'all-linear' as const,
});

/** The folder for (shape, dtype, rank), made if it is not there. Throws when the process that makes it fails. */
export function trainingFolder(model: string, dtype: 'f32' | 'bf16', r: number): string {
  const folder = join(homedir(), '.cache', 'lathe-bench', `${model}-${dtype}-r${r}`);
  if (existsSync(folder)) return folder;
  const made = spawnSync(process.execPath, [import.meta.filename, model, dtype, String(r), folder], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (made.status !== 0 || !existsSync(folder)) throw new Error(`could not write ${folder}`);
  return folder;
}

async function write(model: string, dtype: 'f32' | 'bf16', r: number, folder: string): Promise<void> {
  const device = openDevice({ kind: 'cpu' });
  const base = createModel(shape(model), device, { dtype, seed: 1, trainable: false });
  const unfinished = `${folder}.${process.pid}`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  await base.save(unfinished);
  const adapter = LoraAdapter.create(base, adapterConfig(r), 1);
  await adapter.save(join(unfinished, 'adapter'), { baseModelName: model });
  renameSync(unfinished, folder);
}

if (process.argv[1] === import.meta.filename) {
  const [, , model, dtype, r, folder] = process.argv;
  await write(model!, dtype === 'f32' ? 'f32' : 'bf16', Number(r), folder!);
}
