/** Model shapes to measure with random weights: the speed of a shape does not depend on what was learned. */

import type { ModelConfig } from '../workers/engine/models/config.ts';
import { readModelConfig } from '../workers/engine/models/config.ts';

const qwen3 = {
  architectures: ['Qwen3ForCausalLM'],
  model_type: 'qwen3',
  head_dim: 128,
  vocab_size: 151936,
  rms_norm_eps: 1e-6,
  rope_theta: 1e6,
  tie_word_embeddings: true,
  max_position_embeddings: 40960,
  hidden_act: 'silu',
  eos_token_id: 151645,
};

const shapes: Record<string, object> = {
  'lathe-tiny': {
    ...qwen3,
    head_dim: 64,
    vocab_size: 2048,
    hidden_size: 256,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 704,
    max_position_embeddings: 2048,
    eos_token_id: 2,
  },
  'qwen3-0.6b': {
    ...qwen3,
    hidden_size: 1024,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    num_key_value_heads: 8,
    intermediate_size: 3072,
  },
  'qwen3-4b': {
    ...qwen3,
    hidden_size: 2560,
    num_hidden_layers: 36,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    intermediate_size: 9728,
  },
  'qwen2.5-7b': {
    ...qwen3,
    architectures: ['Qwen2ForCausalLM'],
    model_type: 'qwen2',
    head_dim: undefined,
    vocab_size: 152064,
    tie_word_embeddings: false,
    max_position_embeddings: 32768,
    hidden_size: 3584,
    num_hidden_layers: 28,
    num_attention_heads: 28,
    num_key_value_heads: 4,
    intermediate_size: 18944,
  },
};

/** The configuration of a named shape; the error lists the names. */
export function shape(name: string): ModelConfig {
  const config = shapes[name];
  if (!config) throw new Error(`unknown --model=${name}; known: ${Object.keys(shapes).join(', ')}`);
  return readModelConfig(config);
}

/**
 * Multiply-add parameters a token meets, split as the floors need it.
 * `trunk`: the linears of all layers; `head`: the output projection; `lora`: r(in + out) over the seven linears.
 */
export function matmulParameters(c: ModelConfig, r: number): { trunk: number; head: number; lora: number } {
  const q = c.heads * c.headDim;
  const kv = c.kvHeads * c.headDim;
  const linears: [number, number][] = [
    [c.hiddenSize, q],
    [c.hiddenSize, kv],
    [c.hiddenSize, kv],
    [q, c.hiddenSize],
    [c.hiddenSize, c.intermediateSize],
    [c.hiddenSize, c.intermediateSize],
    [c.intermediateSize, c.hiddenSize],
  ];
  const sum = (f: (i: number, o: number) => number) =>
    c.layers * linears.reduce((total, [i, o]) => total + f(i, o), 0);
  return { trunk: sum((i, o) => i * o), head: c.vocabSize * c.hiddenSize, lora: sum((i, o) => r * (i + o)) };
}
