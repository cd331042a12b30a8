/** Qwen3 (dense): no biases, RMSNorm on every query and key head, head_dim independent of hidden_size. */
import { type Family, llamaNames } from './family.ts';

export const qwen3: Family = {
  architecture: 'Qwen3ForCausalLM',
  qkvBias: false,
  qkNorm: true,
  headDimDefault: 128,
  kvHeadsDefault: 'required',
  names: llamaNames,
};
