/** Where models come from: a Hugging Face folder, or a seeded initialisation for training from scratch. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from '../device.ts';
import { openWeightFiles, type WeightFiles } from '../io/weight-files.ts';
import { streamOf } from '../rng.ts';
import { type FloatDType, keep, scope, Tensor } from '../tensor.ts';
import { familyOf, type ModelConfig, ModelConfigError, readModelConfig } from './config.ts';
import { Model, type Quantization } from './model.ts';
import { type ParameterSpec, parameterSpecs } from './weights.ts';

export interface OpenModelOptions {
  dtype: FloatDType;
  /** Full fine-tuning: weights are copied out of the file and receive gradients. */
  trainable?: boolean;
  /** Packs the linear weights for decoding; such a model cannot train, be merged into or be saved. */
  forServing?: boolean;
  /** Rounds the linear weights and the head's while they are packed; only with `forServing`, on the CPU. */
  quantization?: Quantization | null;
}

const JSON_BYTES_MAX = 16 << 20;

/**
 * Loads config.json, generation_config.json and the safetensors weights of `dir`.
 * Weights already of `dtype` stay views of the mapped files unless the model is trainable.
 * @throws ModelConfigError, SafetensorsError, or an Error naming a missing, superfluous or misshapen weight
 */
export function openModel(dir: string, device: Device, options: OpenModelOptions): Model {
  const { dtype, trainable = false, forServing = false, quantization = null } = options;
  if (trainable && forServing) throw new Error('openModel: a model for serving cannot be trainable');
  if (quantization !== null && !(forServing && device.kind === 'cpu'))
    throw new Error(`openModel: ${quantization} weights are for serving on the CPU`);
  const generationConfig = readJson(join(dir, 'generation_config.json'));
  const config = readModelConfig(
    readJson(join(dir, 'config.json'), 'required'),
    generationConfig ?? undefined,
  );
  const files = openWeightFiles(dir);
  checkNames(config, files);
  const parameters = new Map<string, Tensor>();
  try {
    for (const spec of parameterSpecs(config)) {
      parameters.set(spec.name, loadParameter(device, files, spec, dtype, trainable));
    }
    const model = new Model({ config, device, dtype, parameters, trainable, generationConfig });
    if (forServing) model.packForServing(quantization);
    return model;
  } catch (error) {
    for (const tensor of parameters.values()) tensor.dispose();
    throw error;
  }
}

export interface CreateModelOptions {
  dtype: FloatDType;
  seed: number;
  trainable?: boolean;
}

/**
 * A freshly initialised model: linears and embeddings N(0, initializer_range²), norms 1, biases 0, as transformers
 * initialises these families. The same seed gives the same bytes on every machine.
 */
export function createModel(config: ModelConfig, device: Device, options: CreateModelOptions): Model {
  const { dtype, seed, trainable = true } = options;
  const parameters = new Map<string, Tensor>();
  for (const spec of parameterSpecs(config)) {
    parameters.set(spec.name, initialise(device, spec, dtype, seed, config.initializerRange));
  }
  return new Model({ config, device, dtype, parameters, trainable, generationConfig: null });
}

function initialise(
  device: Device,
  spec: ParameterSpec,
  dtype: FloatDType,
  seed: number,
  std: number,
): Tensor {
  return scope(() => {
    const values = Tensor.empty(device, spec.shape, 'f32');
    if (spec.kind === 'norm') device.native.fill(values.handle, 1);
    else if (spec.kind === 'bias') device.native.fill(values.handle, 0);
    else device.native.randomNormal(values.handle, 0, std, seed, streamOf(spec.name));
    return keep(dtype === 'f32' ? values : values.cast(dtype));
  });
}

function loadParameter(
  device: Device,
  files: WeightFiles,
  spec: ParameterSpec,
  dtype: FloatDType,
  trainable: boolean,
): Tensor {
  const stored = files.get(spec.name);
  if (stored === undefined) throw new Error(`the weight files lack ${spec.name}`);
  if (stored.shape.join() !== spec.shape.join()) {
    throw new Error(`${spec.name} has shape [${stored.shape}], config.json asks for [${spec.shape}]`);
  }
  return scope(() => {
    const loaded = files.load(device, spec.name, dtype);
    return keep(trainable ? loaded.clone() : loaded);
  });
}

/** Refuses weights that the forward pass would not use: ignoring one would silently change the model. */
function checkNames(config: ModelConfig, files: WeightFiles): void {
  const expected = new Set([...parameterSpecs(config)].map((spec) => spec.name));
  const { head } = familyOf(config).names;
  for (const name of files.names()) {
    const harmless =
      name.endsWith('rotary_emb.inv_freq') || (config.tieWordEmbeddings && name === `${head}.weight`);
    if (!expected.has(name) && !harmless)
      throw new Error(`the weight files hold ${name}, which this model does not use`);
  }
}

function readJson(path: string): Record<string, unknown> | null;
function readJson(path: string, presence: 'required'): Record<string, unknown>;
function readJson(path: string, presence?: 'required'): Record<string, unknown> | null {
  if (!existsSync(path)) {
    if (presence === 'required') throw new Error(`${path} does not exist`);
    return null;
  }
  if (statSync(path).size > JSON_BYTES_MAX) throw new Error(`${path} is larger than ${JSON_BYTES_MAX} bytes`);
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  } catch (error) {
    throw new ModelConfigError(path, `is not JSON: ${(error as Error).message}`);
  }
}
