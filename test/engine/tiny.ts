// Small models and batches for the engine's tests: random weights, two layers, a vocabulary of 64.
import type { Device } from '../../workers/engine/device.ts';
import { type ModelConfig, readModelConfig } from '../../workers/engine/models/config.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { createModel } from '../../workers/engine/models/open-model.ts';
import type { PackedBatch } from '../../workers/engine/models/packed.ts';
import { uniformAt } from '../../workers/engine/rng.ts';
import type { FloatDType } from '../../workers/engine/tensor.ts';

export const VOCABULARY = 64;

export function tinyJson(overrides: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    vocab_size: VOCABULARY,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: true,
    // larger than usual, so that attention and logits of an untrained model are not flat
    initializer_range: 0.15,
    eos_token_id: 1,
    ...overrides,
  };
}

export function tinyConfig(overrides: Record<string, unknown> = {}): ModelConfig {
  return readModelConfig(tinyJson(overrides));
}

export function tinyModel(
  device: Device,
  options: { dtype?: FloatDType; seed?: number; trainable?: boolean; config?: Record<string, unknown> } = {},
): Model {
  const { dtype = 'f32', seed = 1, trainable = true, config = {} } = options;
  return createModel(tinyConfig(config), device, { dtype, seed, trainable });
}

/** A reproducible sequence of `length` ids. */
export function randomIds(length: number, seed: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => Math.floor(uniformAt(seed, 7, i) * VOCABULARY));
}

/** One packed batch of the sequences; every token but each sequence's last is labelled with the one after it. */
export function packSequences(sequences: readonly Int32Array[]): PackedBatch {
  const total = sequences.reduce((sum, ids) => sum + ids.length, 0);
  const batch = {
    ids: new Int32Array(total),
    positions: new Int32Array(total),
    cuSeqlens: new Int32Array(sequences.length + 1),
    targets: new Int32Array(total).fill(-100),
  };
  let start = 0;
  for (const [n, ids] of sequences.entries()) {
    batch.ids.set(ids, start);
    for (let i = 0; i < ids.length; i++) {
      batch.positions[start + i] = i;
      if (i + 1 < ids.length) batch.targets[start + i] = ids[i + 1]!;
    }
    start += ids.length;
    batch.cuSeqlens[n + 1] = start;
  }
  return batch;
}

export function labelledCount(batch: PackedBatch): number {
  return batch.targets.filter((target) => target !== -100).length;
}

/** ‖a − b‖ / ‖b‖ */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference / Math.max(norm, 1e-30));
}
