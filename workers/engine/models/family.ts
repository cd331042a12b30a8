/** What a model family adds to the shared decoder: its traits in config.json, and its names in weight files. */

/** The seven linears of a block, in the order in which they run. */
export const LINEAR_ROLES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const;
export type LinearRole = (typeof LINEAR_ROLES)[number];

export interface WeightNames {
  /** Module paths, without `.weight` and `.bias`. */
  embedding: string;
  finalNorm: string;
  head: string;
  block(layer: number): Record<LinearRole | 'inputNorm' | 'postNorm' | 'qNorm' | 'kNorm', string>;
}

export interface Family {
  architecture: string;
  /** Bias on q, k and v (never on o here). */
  qkvBias: boolean;
  /** RMSNorm of every query and key head before the rotation. */
  qkNorm: boolean;
  /** head_dim when config.json has none; null = hidden_size / heads. */
  headDimDefault: number | null;
  /** num_key_value_heads when config.json has none. */
  kvHeadsDefault: 'heads' | 'required';
  names: WeightNames;
}

/** The naming that Llama began and most families kept. */
export const llamaNames: WeightNames = {
  embedding: 'model.embed_tokens',
  finalNorm: 'model.norm',
  head: 'lm_head',
  block(layer) {
    const path = `model.layers.${layer}`;
    return {
      inputNorm: `${path}.input_layernorm`,
      q: `${path}.self_attn.q_proj`,
      k: `${path}.self_attn.k_proj`,
      v: `${path}.self_attn.v_proj`,
      o: `${path}.self_attn.o_proj`,
      qNorm: `${path}.self_attn.q_norm`,
      kNorm: `${path}.self_attn.k_norm`,
      postNorm: `${path}.post_attention_layernorm`,
      gate: `${path}.mlp.gate_proj`,
      up: `${path}.mlp.up_proj`,
      down: `${path}.mlp.down_proj`,
    };
  },
};
