import { describe, expect, it } from 'vitest';
import { ModelConfigError, readModelConfig } from '../../workers/engine/models/config.ts';
import { QWEN25_7B } from './published-configs.ts';
import { tinyJson } from './tiny.ts';

describe('readModelConfig', () => {
  it('reads a file of transformers 4', () => {
    const config = readModelConfig(QWEN25_7B, { eos_token_id: [151645, 151643] });
    expect(config).toMatchObject({
      modelType: 'qwen2',
      headDim: 128,
      kvHeads: 4,
      qkvBias: true,
      qkNorm: false,
      rope: { type: 'default', theta: 1e6 },
      slidingWindow: null,
      eosTokenIds: [151645, 151643],
      bosTokenId: 151643,
    });
    expect(config.layerWindows).toEqual(Array(28).fill(0));
  });

  it('reads rope_parameters and layer_types of transformers 5', () => {
    const { rope_theta: _, ...json } = tinyJson({
      rope_parameters: { rope_type: 'linear', rope_theta: 5000, factor: 2 },
      layer_types: ['full_attention', 'sliding_attention'],
      sliding_window: 8,
      dtype: 'float32',
    });
    const config = readModelConfig(json);
    expect(config.rope).toEqual({ type: 'linear', theta: 5000, factor: 2 });
    expect(config.slidingWindow).toBe(8);
    expect(config.layerWindows).toEqual([0, 8]);
  });

  it('puts the window on the layers from max_window_layers on', () => {
    const windowed = { use_sliding_window: true, sliding_window: 8, max_window_layers: 1 };
    expect(readModelConfig(tinyJson(windowed)).layerWindows).toEqual([0, 8]);
  });

  it('falls back as each family does', () => {
    const { head_dim: _, num_key_value_heads: __, ...json } = tinyJson();
    const llama = { ...json, architectures: ['LlamaForCausalLM'], model_type: 'llama' };
    expect(readModelConfig(llama)).toMatchObject({ headDim: 8, kvHeads: 4, qkNorm: false });
    expect(readModelConfig({ ...json, num_key_value_heads: 2 })).toMatchObject({ headDim: 128 });
    expect(() => readModelConfig(json)).toThrow(/num_key_value_heads is missing/);
  });

  it.each([
    ['model_type', { model_type: 'gpt2' }],
    ['architectures', { architectures: ['EvilForCausalLM'] }],
    ['auto_map', { auto_map: { AutoModel: 'x--y.Z' } }],
    ['quantization_config', { quantization_config: { quant_method: 'gptq' } }],
    ['_attn_implementation_internal', { _attn_implementation_internal: 'evil/kernel' }],
    ['hidden_act', { hidden_act: 'gelu' }],
    ['attention_bias', { attention_bias: true }],
    ['attention_dropout', { attention_dropout: 0.1 }],
    ['hidden_size', { hidden_size: 0 }],
    ['hidden_size', { hidden_size: 1e9 }],
    ['hidden_size', { hidden_size: '32' }],
    ['num_hidden_layers', { num_hidden_layers: 0 }],
    ['num_hidden_layers', { num_hidden_layers: 100000 }],
    ['num_key_value_heads', { num_key_value_heads: 3 }],
    ['num_key_value_heads', { num_key_value_heads: 0 }],
    ['head_dim', { head_dim: 15 }],
    ['vocab_size', { vocab_size: 2 ** 21 }],
    ['max_position_embeddings', { max_position_embeddings: 2 ** 23 }],
    ['rms_norm_eps', { rms_norm_eps: 0 }],
    ['num_hidden_layers', { num_hidden_layers: 2.5 }],
    ['tie_word_embeddings', { tie_word_embeddings: 'yes' }],
    ['rope_theta', { rope_theta: -1 }],
    ['rope_scaling.rope_type', { rope_scaling: { rope_type: 'longrope', factor: 4 } }],
    ['rope_scaling.type', { rope_scaling: { type: 'dynamic', factor: 4 } }],
    ['rope_scaling.factor', { rope_scaling: { type: 'linear' } }],
    ['rope_scaling.factor', { rope_scaling: { type: 'yarn', factor: 0.5 } }],
    ['rope_scaling.partial_rotary_factor', { rope_scaling: { type: 'default', partial_rotary_factor: 0.5 } }],
    ['rope_parameters', { rope_parameters: { full_attention: { rope_type: 'default' } } }],
    ['layer_types', { layer_types: ['full_attention'] }],
    ['layer_types', { layer_types: ['full_attention', 'linear_attention'] }],
    ['eos_token_id', { eos_token_id: 64 }],
  ])('refuses a bad %s, naming it', (field, override) => {
    const read = () => readModelConfig(tinyJson(override));
    expect(read).toThrow(ModelConfigError);
    expect(read).toThrow(expect.objectContaining({ field }));
  });

  it('refuses what is not an object', () => {
    for (const json of [null, [], 'x', 3]) expect(() => readModelConfig(json)).toThrow(ModelConfigError);
  });
});
