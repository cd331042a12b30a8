// The base model of trainer tests: random, two narrow layers, on disk as any other.
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { PROJECT_ROOT } from '../../src/config.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { createModel, readModelConfig } from '../../workers/engine/models/index.ts';

const TINY = path.join(PROJECT_ROOT, 'models/lathe-tiny');
const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'generation_config.json',
];

/** The shipped model's tokenizer and family with two narrow random layers: a step takes milliseconds. */
export async function writeTinyModel(
  dir: string,
  dtype: 'f32' | 'bf16' = 'f32',
): Promise<Record<string, unknown>> {
  const raw = {
    ...(JSON.parse(readFileSync(path.join(TINY, 'config.json'), 'utf8')) as Record<string, unknown>),
    ...{ hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2 },
    ...{ num_key_value_heads: 1, head_dim: 16, max_window_layers: 2, max_position_embeddings: 128 },
  };
  mkdirSync(dir, { recursive: true });
  const model = createModel(readModelConfig(raw), openDevice({ kind: 'cpu' }), { dtype, seed: 1 });
  await model.save(dir);
  model.dispose();
  for (const name of TOKENIZER_FILES) copyFileSync(path.join(TINY, name), path.join(dir, name));
  return JSON.parse(readFileSync(path.join(dir, 'config.json'), 'utf8'));
}

/** A folder with a spoilt copy of a model. */
export function copyModel(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const name of ['config.json', 'model.safetensors', ...TOKENIZER_FILES])
    copyFileSync(path.join(from, name), path.join(to, name));
}
