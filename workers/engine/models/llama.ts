/** Llama 3 (and 2): no biases, no qk-norm; long context by `llama3` RoPE scaling. */
import { type Family, llamaNames } from './family.ts';

export const llama: Family = {
  architecture: 'LlamaForCausalLM',
  qkvBias: false,
  qkNorm: false,
  headDimDefault: null,
  kvHeadsDefault: 'heads',
  names: llamaNames,
};
