/**
 * A Hugging Face config.json → the one description that the decoder understands. Strict: bounds on every size, and
 * whatever would change the mathematics without being implemented is refused by name.
 */
import type { Family } from './family.ts';
import { Fields, ModelConfigError } from './fields.ts';
import { llama } from './llama.ts';
import { qwen2 } from './qwen2.ts';
import { qwen3 } from './qwen3.ts';
import { type RopeConfig, readRopeConfig } from './rope-config.ts';

export { ModelConfigError } from './fields.ts';

export type ModelType = 'qwen3' | 'qwen2' | 'llama';

export interface ModelConfig {
  modelType: ModelType;
  hiddenSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  intermediateSize: number;
  vocabSize: number;
  rmsNormEps: number;
  tieWordEmbeddings: boolean;
  qkvBias: boolean;
  qkNorm: boolean;
  rope: RopeConfig;
  maxPositionEmbeddings: number;
  /** Tokens that a sliding-window layer sees, itself included; null when every layer sees everything. */
  slidingWindow: number | null;
  /** Window of each layer; 0 = full attention. */
  layerWindows: readonly number[];
  initializerRange: number;
  eosTokenIds: number[];
  bosTokenId: number | null;
  /** The file as read, for writing it back. */
  raw: Record<string, unknown>;
}

const FAMILIES: Readonly<Record<ModelType, Family>> = { qwen3, qwen2, llama };

export function familyOf(config: ModelConfig): Family {
  return FAMILIES[config.modelType];
}

/** Values other than these would change the result of a forward pass that is not implemented. */
const ONLY: Readonly<Record<string, unknown>> = {
  hidden_act: 'silu',
  attention_bias: false,
  mlp_bias: false,
  attention_dropout: 0,
  partial_rotary_factor: 1,
  pretraining_tp: 1,
  is_encoder_decoder: false,
  use_mrope: false,
};

/** Keys that ask for foreign code or for weights in a format that is not supported. */
const REFUSED = [
  'auto_map',
  'quantization_config',
  '_attn_implementation_internal',
  '_experts_implementation',
];

/**
 * Reads a parsed config.json, and generation_config.json when there is one (its eos_token_id wins, as in generate()).
 * @throws ModelConfigError naming the field
 */
export function readModelConfig(json: unknown, generationConfig?: unknown): ModelConfig {
  const fields = new Fields(json);
  const modelType = fields.string('model_type');
  if (!Object.hasOwn(FAMILIES, modelType)) {
    fields.refuse('model_type', `${JSON.stringify(modelType)} is not supported (qwen3, qwen2 and llama are)`);
  }
  const family = FAMILIES[modelType as ModelType];
  refuseForeign(fields, family);

  const hiddenSize = fields.integer('hidden_size', 1, 65_536);
  const heads = fields.integer('num_attention_heads', 1, 1024);
  const kvHeads = fields.integer(
    'num_key_value_heads',
    1,
    heads,
    family.kvHeadsDefault === 'heads' ? heads : undefined,
  );
  if (heads % kvHeads !== 0)
    fields.refuse('num_key_value_heads', `${kvHeads} does not divide ${heads} heads`);
  const vocabSize = fields.integer('vocab_size', 1, 2 ** 20);
  const maxPositionEmbeddings = fields.integer('max_position_embeddings', 1, 2 ** 22);
  const layers = fields.integer('num_hidden_layers', 1, 512);
  const generation =
    generationConfig === undefined ? null : new Fields(generationConfig, 'generation_config');
  const eosTokenIds = [generation, fields].map((source) => source?.tokenIds('eos_token_id', vocabSize) ?? []);
  const slidingWindow = readSlidingWindow(fields);
  return {
    modelType: modelType as ModelType,
    hiddenSize,
    layers,
    heads,
    kvHeads,
    headDim: readHeadDim(fields, family, hiddenSize, heads),
    intermediateSize: fields.integer('intermediate_size', 1, 2 ** 20),
    vocabSize,
    rmsNormEps: fields.number('rms_norm_eps', 1e-12, 1, 1e-6),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    qkvBias: family.qkvBias,
    qkNorm: family.qkNorm,
    rope: readRopeConfig(fields, maxPositionEmbeddings),
    maxPositionEmbeddings,
    slidingWindow,
    layerWindows: readLayerWindows(fields, layers, slidingWindow),
    initializerRange: fields.number('initializer_range', 1e-6, 1, 0.02),
    eosTokenIds: [...new Set(eosTokenIds.find((ids) => ids.length > 0) ?? [])],
    bosTokenId: fields.tokenIds('bos_token_id', vocabSize)[0] ?? null,
    raw: json as Record<string, unknown>,
  };
}

function refuseForeign(fields: Fields, family: Family): void {
  for (const key of REFUSED) {
    if (fields.has(key)) fields.refuse(key, 'is not supported');
  }
  for (const [key, value] of Object.entries(ONLY)) {
    if (fields.has(key) && fields.get(key) !== value) {
      fields.refuse(
        key,
        `${JSON.stringify(fields.get(key))} is not supported (only ${JSON.stringify(value)})`,
      );
    }
  }
  const architectures = fields.get('architectures');
  if (architectures === undefined) return;
  if (
    !Array.isArray(architectures) ||
    architectures.length !== 1 ||
    architectures[0] !== family.architecture
  ) {
    fields.refuse(
      'architectures',
      `must be ["${family.architecture}"], not ${JSON.stringify(architectures)}`,
    );
  }
}

function readHeadDim(fields: Fields, family: Family, hiddenSize: number, heads: number): number {
  if (!fields.has('head_dim') && family.headDimDefault === null && hiddenSize % heads !== 0) {
    throw new ModelConfigError('hidden_size', `${hiddenSize} is not a multiple of ${heads} heads`);
  }
  const headDim = fields.integer('head_dim', 2, 1024, family.headDimDefault ?? hiddenSize / heads);
  if (headDim % 2 !== 0) fields.refuse('head_dim', `must be even, not ${headDim}`);
  return headDim;
}

/** The window counts only where `use_sliding_window` says so, or where layer_types names windowed layers. */
function readSlidingWindow(fields: Fields): number | null {
  const layerTypes = fields.get('layer_types');
  const windowed = Array.isArray(layerTypes) && layerTypes.includes('sliding_attention');
  if (!fields.boolean('use_sliding_window', windowed) || !fields.has('sliding_window')) return null;
  return fields.integer('sliding_window', 1, 2 ** 22);
}

function readLayerWindows(fields: Fields, layers: number, window: number | null): number[] {
  const types = fields.get('layer_types');
  if (types !== undefined) {
    if (!Array.isArray(types) || types.length !== layers) {
      fields.refuse('layer_types', `must list ${layers} layers`);
    }
    return types.map((type) => {
      if (type === 'full_attention') return 0;
      if (type === 'sliding_attention' && window !== null) return window;
      return fields.refuse('layer_types', `holds ${JSON.stringify(type)}, which is not supported here`);
    });
  }
  // transformers 4: the first max_window_layers layers see everything
  const fullLayers = window === null ? layers : fields.integer('max_window_layers', 0, 2 ** 16, layers);
  return Array.from({ length: layers }, (_, layer) => (layer < fullLayers ? 0 : (window ?? 0)));
}
