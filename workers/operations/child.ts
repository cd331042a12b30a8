/**
 * The process of one operation on an adapter: checks it against its base model and writes what was read (import), or
 * merges it into the base model (export). A process of its own, because the adapter may be anybody's: what it costs in
 * memory or time ends with the process. Knows no database and no storage.
 */
import { copyFileSync, mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { openDevice } from '../engine/device.ts';
import { writeJson } from '../engine/io/atomic-write.ts';
import { SafetensorsError } from '../engine/io/safetensors.ts';
import { openWeightFiles } from '../engine/io/weight-files.ts';
import { type Model, openModel } from '../engine/models/index.ts';
import { LoraAdapter, type LoraConfig, LoraConfigError } from '../engine/peft/lora.ts';
import { writeLoraConfig } from '../engine/peft/lora-config.ts';
import { patternValue } from '../engine/peft/targets.ts';
import type { FloatDType } from '../engine/tensor.ts';
import type { OperationAnswer, OperationRequest } from './messages.ts';

/** What a model folder needs beside weights and configuration. */
const TOKENIZER_FILES =
  /^(tokenizer\.json|tokenizer_config\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.jinja|LICENSE(\.\w+)?)$/;

process.once('message', (request: OperationRequest) => {
  void perform(request).then((answer) => process.send!(answer, () => process.disconnect()));
});

async function perform(request: OperationRequest): Promise<OperationAnswer> {
  const device = openDevice({ kind: 'cpu', threads: request.threads });
  const model = openModel(request.baseDir, device, { dtype: storedDtype(request.baseDir) });
  const adapter = load(request, model);
  if (typeof adapter === 'string') return { type: 'refused', message: adapter };
  mkdirSync(request.outDir, { recursive: true });
  if (request.kind === 'import') return publishable(request, model, adapter);
  adapter.mergeInto(model);
  await model.save(request.outDir);
  for (const name of readdirSync(request.baseDir)) {
    if (TOKENIZER_FILES.test(name))
      copyFileSync(path.join(request.baseDir, name), path.join(request.outDir, name));
  }
  return { type: 'done' };
}

/** bf16 stays bf16; anything else becomes f32, which holds half precision and the merged values without loss. */
function storedDtype(dir: string): FloatDType {
  const files = openWeightFiles(dir);
  return [...files.names()].every((name) => files.get(name)?.dtype === 'BF16') ? 'bf16' : 'f32';
}

/** The adapter, or what is wrong with it. Paths of this machine do not belong into the sentence. */
function load({ adapterDir }: OperationRequest, model: Model): LoraAdapter | string {
  try {
    return LoraAdapter.load(adapterDir, model);
  } catch (error) {
    const theirs =
      error instanceof LoraConfigError || error instanceof SafetensorsError || error instanceof SyntaxError;
    if (!theirs) throw error;
    return error.message.replaceAll(`${adapterDir}${path.sep}`, '').slice(0, 500);
  }
}

/** Refuses values that are not finite; writes the adapter as this engine writes its own. */
async function publishable(
  { outDir, baseModel }: OperationRequest,
  model: Model,
  adapter: LoraAdapter,
): Promise<OperationAnswer> {
  for (const [name, tensor] of adapter.parameters()) {
    if (model.device.native.hasNonFinite(tensor.handle))
      return { type: 'refused', message: `${name} holds numbers that are not finite (NaN or infinite)` };
  }
  await adapter.save(outDir, { baseModelName: baseModel });
  const config = withoutPatterns(adapter.config, model, adapter);
  if (config) {
    const json = writeLoraConfig(config, { baseModelName: baseModel, targets: config.target_modules });
    writeJson(path.join(outDir, 'adapter_config.json'), json);
  }
  return { type: 'done' };
}

/**
 * The same adapter without regular expressions: every module by its path, every rank and alpha that differs by the
 * exact path too. Serving processes must never run patterns that somebody sent. Null when there are none.
 */
function withoutPatterns(config: LoraConfig, model: Model, adapter: LoraAdapter): LoraConfig | null {
  const isPlain =
    (Array.isArray(config.target_modules) || config.target_modules === 'all-linear') &&
    (config.exclude_modules == null || Array.isArray(config.exclude_modules)) &&
    config.layers_pattern == null &&
    Object.keys({ ...config.rank_pattern, ...config.alpha_pattern }).length === 0;
  if (isPlain) return null;
  const adapted = model.linears().filter(({ index }) => adapter.branch(index) !== null);
  const exactly = (patterns: Record<string, number> | undefined, fallback: number) =>
    Object.fromEntries(
      adapted
        .map(({ name }) => [name.replace(/\./g, '\\.'), patternValue(patterns, name, fallback)] as const)
        .filter(([, value]) => value !== fallback),
    );
  return {
    ...config,
    target_modules: adapted.map(({ name }) => name),
    ...{ exclude_modules: null, layers_to_transform: null, layers_pattern: null },
    rank_pattern: exactly(config.rank_pattern, config.r),
    alpha_pattern: exactly(config.alpha_pattern, config.lora_alpha),
  };
}
