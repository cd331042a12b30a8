/** Writes a model as a Hugging Face folder that transformers and this engine open. Tokenizer files are the caller's. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { writeJson } from '../io/atomic-write.ts';
import { writeSafetensors } from '../io/safetensors.ts';
import { familyOf } from './config.ts';
import type { Model } from './model.ts';

const DTYPE_NAMES = { f32: 'float32', bf16: 'bfloat16' } as const;

/** @throws when the model was opened for serving: its plain weights are gone */
export async function saveModel(model: Model, dir: string): Promise<void> {
  const { config } = model;
  if (model.weights.head.weight === null) throw new Error('a model opened for serving cannot be saved');
  mkdirSync(dir, { recursive: true });
  writeSafetensors(join(dir, 'model.safetensors'), model.parameters());
  const generation = model.generationConfig ?? {
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenIds,
  };
  writeJson(join(dir, 'generation_config.json'), generation);
  const { torch_dtype: _old, dtype: _new, ...raw } = config.raw;
  writeJson(join(dir, 'config.json'), {
    ...raw,
    architectures: [familyOf(config).architecture],
    torch_dtype: DTYPE_NAMES[model.dtype],
  });
}
