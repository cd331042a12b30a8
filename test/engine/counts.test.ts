// Parameter counts of published models from their config.json alone: no weights, no device, no allocation.
import { describe, expect, it } from 'vitest';
import { readModelConfig } from '../../workers/engine/models/config.ts';
import { loraParameterCount, parameterCount } from '../../workers/engine/models/count.ts';

const QWEN3_4B = {
  architectures: ['Qwen3ForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151645,
  head_dim: 128,
  hidden_act: 'silu',
  hidden_size: 2560,
  initializer_range: 0.02,
  intermediate_size: 9728,
  max_position_embeddings: 40960,
  max_window_layers: 36,
  model_type: 'qwen3',
  num_attention_heads: 32,
  num_hidden_layers: 36,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 1000000,
  sliding_window: null,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  transformers_version: '4.51.0',
  use_cache: true,
  use_sliding_window: false,
  vocab_size: 151936,
};

const QWEN25_7B = {
  architectures: ['Qwen2ForCausalLM'],
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151645,
  hidden_act: 'silu',
  hidden_size: 3584,
  initializer_range: 0.02,
  intermediate_size: 18944,
  max_position_embeddings: 32768,
  max_window_layers: 28,
  model_type: 'qwen2',
  num_attention_heads: 28,
  num_hidden_layers: 28,
  num_key_value_heads: 4,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000.0,
  sliding_window: 131072,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  transformers_version: '4.43.1',
  use_cache: true,
  use_sliding_window: false,
  vocab_size: 152064,
};

const LLAMA3_8B = {
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 128000,
  eos_token_id: 128001,
  hidden_act: 'silu',
  hidden_size: 4096,
  initializer_range: 0.02,
  intermediate_size: 14336,
  max_position_embeddings: 8192,
  model_type: 'llama',
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 8,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  rope_theta: 500000.0,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  use_cache: true,
  vocab_size: 128256,
};

const MODELS = [
  { name: 'Qwen3-4B', json: QWEN3_4B, base: 4_022_468_096, all: 16_515_072, qv: 2_949_120 },
  { name: 'Qwen2.5-7B', json: QWEN25_7B, base: 7_615_616_512, all: 20_185_088, qv: 2_523_136 },
  { name: 'Llama-3-8B', json: LLAMA3_8B, base: 8_030_261_248, all: 20_971_520, qv: 3_407_872 },
];

describe('parameter counts from shapes', () => {
  for (const { name, json, base, all, qv } of MODELS) {
    const config = readModelConfig(json);

    it(`${name} has ${base} parameters`, () => {
      expect(parameterCount(config)).toBe(base);
    });

    it(`${name} trains ${all} with LoRA r = 8 on every linear, ${qv} on q_proj and v_proj`, () => {
      const SEVEN = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
      expect(loraParameterCount(config, { r: 8, targetModules: 'all-linear' })).toBe(all);
      expect(loraParameterCount(config, { r: 8, targetModules: SEVEN })).toBe(all);
      expect(loraParameterCount(config, { r: 8, targetModules: ['q_proj', 'v_proj'] })).toBe(qv);
      expect(loraParameterCount(config, { r: 16, targetModules: '.*\\.(q|v)_proj' })).toBe(2 * qv);
    });
  }

  it('gives the totals that PEFT prints: trainable of base plus adapter', () => {
    const totals = MODELS.slice(0, 2).map(({ json }) => {
      const config = readModelConfig(json);
      const trainable = loraParameterCount(config, { r: 8, targetModules: 'all-linear' });
      return [trainable, trainable + parameterCount(config)];
    });
    expect(totals).toEqual([
      [16_515_072, 4_038_983_168],
      [20_185_088, 7_635_801_600],
    ]);
  });
});
