/**
 * A loaded model: configuration, weights, and at most one attached adapter. It owns its tensors. Opening, creating and
 * saving are in open-model.ts and save-model.ts; the forward passes in packed.ts and paged.ts.
 */
import type { Device } from '../device.ts';
import type { LoraAdapter } from '../peft/lora.ts';
import { type FloatDType, keep, Tensor } from '../tensor.ts';
import type { ModelConfig } from './config.ts';
import { parameterCount } from './count.ts';
import { type PackedBatch, packedLogits } from './packed.ts';
import { type KvCache, type PagedBatch, pagedLogits } from './paged.ts';
import { RopeTables } from './rope-table.ts';
import { saveModel } from './save-model.ts';
import { arrangeWeights, blockLinears, type DecoderWeights, type Linear } from './weights.ts';

/** How serving may round the weights of linears: int8 with one scale per output, activations as they are. */
export type Quantization = 'int8';

export interface ModelParts {
  config: ModelConfig;
  device: Device;
  dtype: FloatDType;
  /** Under the names of parameterSpecs(). The model disposes them. */
  parameters: Map<string, Tensor>;
  trainable: boolean;
  generationConfig: Record<string, unknown> | null;
}

export class Model {
  readonly config: ModelConfig;
  readonly device: Device;
  readonly dtype: FloatDType;
  readonly weights: DecoderWeights;
  readonly rope: RopeTables;
  /** generation_config.json as it was read; null when the folder had none. */
  readonly generationConfig: Record<string, unknown> | null;
  /** True when the model was opened to train its own weights. */
  readonly trainable: boolean;
  adapter: LoraAdapter | null = null;
  #parameters: Map<string, Tensor>;

  constructor(parts: ModelParts) {
    this.config = parts.config;
    this.device = parts.device;
    this.dtype = parts.dtype;
    this.generationConfig = parts.generationConfig;
    this.trainable = parts.trainable;
    this.#parameters = parts.parameters;
    this.weights = arrangeWeights(parts.config, parts.parameters);
    this.rope = new RopeTables(parts.config, parts.device);
    this.#setTrainable(parts.trainable);
  }

  /** What activations and the key/value cache are stored as beside these weights. */
  get activationDtype(): FloatDType {
    return this.device.activationDtype(this.dtype);
  }

  /** Every linear of the blocks, in forward order: what adapters may target. */
  linears(): Linear[] {
    return blockLinears(this.weights);
  }

  /** Puts an adapter into the forward. While one is attached only the adapter learns. */
  attach(adapter: LoraAdapter): void {
    if (this.adapter !== null) throw new Error('another adapter is attached: detach() it first');
    this.adapter = adapter;
    this.#setTrainable(false);
  }

  /** Takes the adapter out again; it is not disposed. */
  detach(): void {
    this.adapter = null;
    this.#setTrainable(this.trainable);
  }

  /** The base weights under their Hugging Face names; a tied head is not repeated. */
  parameters(): ReadonlyMap<string, Tensor> {
    return this.#parameters;
  }

  /** What an optimizer may change: the adapter's tensors if one is attached, else the weights of a trainable model. */
  trainableParameters(): ReadonlyMap<string, Tensor> {
    if (this.adapter !== null) return this.adapter.parameters();
    return this.trainable ? this.#parameters : new Map();
  }

  /** Numbers of values, the adapter's included in both. */
  counts(): { trainable: number; total: number } {
    const base = parameterCount(this.config);
    const adapter = this.adapter?.trainableCount ?? 0;
    return { trainable: this.adapter === null && this.trainable ? base : adapter, total: base + adapter };
  }

  /** Logits [rows, V] of chosen rows of a packed batch: the training forward without a tape and without dropout. */
  logits(batch: PackedBatch, rows: Int32Array): Float32Array {
    return packedLogits(this, batch, rows);
  }

  /** Logits [logitRows, V] of new tokens over a paged cache; the attached adapter is ignored, the batch names its own. */
  forwardPaged(batch: PagedBatch, cache: KvCache): Float32Array {
    return pagedLogits(this, batch, cache);
  }

  /** Writes a Hugging Face folder: config.json, generation_config.json, model.safetensors. */
  async save(dir: string): Promise<void> {
    await saveModel(this, dir);
  }

  /** Puts `weight` in the place of a block linear's weight (by Linear.index); the model owns it from here. */
  replaceWeight(index: number, weight: Tensor): void {
    const layer = this.linears()[index];
    if (!layer?.weight) throw new Error(`linear ${index} has no plain weight to replace`);
    keep(weight).requiresGrad = layer.weight.requiresGrad;
    layer.weight.dispose();
    layer.weight = weight;
    this.#parameters.set(`${layer.name}.weight`, weight);
  }

  /**
   * Replaces the linear weights and the head's by packed ones (serving only); `int8` rounds them to numbers of int8 with
   * a scale per output, on the CPU. The embedding keeps its plain weight, also where the head is tied to it.
   */
  packForServing(quantization: Quantization | null = null): void {
    const { native } = this.device;
    const pack = quantization === 'int8' ? native.packWeightInt8 : native.packWeight;
    for (const layer of [...this.linears(), this.weights.head]) {
      if (layer.weight === null) continue;
      const packed = pack(layer.weight.handle);
      layer.packed = keep(new Tensor(this.device, packed, native.tensorInfo(packed).dims, 'u8'));
      const name = `${layer.name}.weight`;
      if (this.#parameters.delete(name)) layer.weight.dispose();
      layer.weight = null;
    }
  }

  dispose(): void {
    this.adapter = null;
    for (const tensor of this.#parameters.values()) tensor.dispose();
    for (const layer of [...this.linears(), this.weights.head]) layer.packed?.dispose();
    this.rope.dispose();
  }

  #setTrainable(trainable: boolean): void {
    for (const tensor of this.#parameters.values()) tensor.requiresGrad = trainable;
  }
}
