/** Qwen2 and Qwen2.5: biases on q, k and v; optional sliding window on the upper layers. */
import { type Family, llamaNames } from './family.ts';

export const qwen2: Family = {
  architecture: 'Qwen2ForCausalLM',
  qkvBias: true,
  qkNorm: false,
  headDimDefault: null,
  kvHeadsDefault: 'required',
  names: llamaNames,
};
