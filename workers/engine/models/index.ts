/** Models: what other folders may import. */
export { type ModelConfig, ModelConfigError, type ModelType, readModelConfig } from './config.ts';
export { loraParameterCount, parameterCount } from './count.ts';
export { KvCache } from './kv-cache.ts';
export { Model, type Quantization } from './model.ts';
export { type CreateModelOptions, createModel, type OpenModelOptions, openModel } from './open-model.ts';
export type { PackedBatch } from './packed.ts';
export type { AdapterRange, PagedBatch } from './paged.ts';
