/**
 * Continuing from a tuned model: which weights a job starts from, and the adapter options that these weights fix. What
 * the model computes is fixed by its own adapter_config.json, wherever it was made; dropout may differ.
 */
import { buffer } from 'node:stream/consumers';
import type { StartWeights } from '../../db/schema-jobs.ts';
import { badRequest, modelNotTunable } from '../../errors.ts';
import { ObjectNotFound } from '../../storage/storage.ts';
import type { Dependencies } from '../dependencies.ts';
import { findTunedModel, type TunedModelRow } from '../models/repository.ts';
import { LINEAR_MODULES, type RequestedAdapter } from './methods.ts';

const CONFIG_FILE = 'adapter_config.json';
const CONFIG_BYTES_MAX = 1 << 20;

/** The options that are part of what the adapter computes; a training cannot change them. */
export interface AdapterShape {
  r: number;
  lora_alpha: number;
  lora_dropout: number;
  target_modules: string | string[];
  use_rslora: boolean;
}

export interface StartingPoint {
  start: StartWeights;
  /** The job's `adapter`: inherited, with what the request may change. */
  adapter: Record<string, unknown>;
}

/**
 * `shape` is what readShape told. @throws ApiError 400 naming the adapter option that contradicts the model, or the
 * model when it has no shape.
 */
export function startFrom(
  shape: AdapterShape | null,
  model: TunedModelRow,
  requested: RequestedAdapter | null | undefined,
): StartingPoint {
  const kind = model.kind === 'full' ? 'full' : 'adapter';
  const start: StartWeights = { kind, storage_prefix: model.storagePrefix, files: model.files };
  if (kind === 'full') {
    if (requested && requested.peft_type !== 'FULL')
      throw contradiction('peft_type', requested.peft_type ?? 'LORA', 'FULL', model.id);
    return { start, adapter: { peft_type: 'FULL' } };
  }
  if (requested?.peft_type === 'FULL') throw contradiction('peft_type', 'FULL', 'LORA', model.id);
  if (!shape) throw modelNotTunable(model.id); // deleted at this moment
  const { lora_dropout, target_modules, ...rest } = requested ?? {};
  for (const name of ['r', 'lora_alpha', 'use_rslora'] as const) {
    const asked = (rest as Partial<AdapterShape>)[name];
    if (asked !== undefined && asked !== shape[name]) throw contradiction(name, asked, shape[name], model.id);
  }
  if (target_modules !== undefined && modulesOf(target_modules) !== modulesOf(shape.target_modules)) {
    throw contradiction('target_modules', target_modules, shape.target_modules, model.id);
  }
  return {
    start,
    adapter: { peft_type: 'LORA', ...shape, ...(lora_dropout !== undefined && { lora_dropout }) },
  };
}

/**
 * What the named model's adapter computes, from storage; null for models without one and for unknown ones. Storage may be
 * slow: not for the inside of a transaction.
 */
export async function readShape(
  { database, storage }: Pick<Dependencies, 'database' | 'storage'>,
  projectId: string,
  id: string,
): Promise<AdapterShape | null> {
  const model = await findTunedModel(database.db, projectId, id);
  if (!model || model.kind === 'full') return null;
  const file = model.files.find(({ name }) => name === CONFIG_FILE);
  if (!file || file.bytes > CONFIG_BYTES_MAX) throw new Error(`${model.id} has no readable ${CONFIG_FILE}`);
  const stored = await storage.get(`${model.storagePrefix}/${CONFIG_FILE}`).catch((error: unknown) => {
    if (error instanceof ObjectNotFound) return null;
    throw error;
  });
  if (!stored) return null;
  const bytes = await buffer(stored);
  const config = JSON.parse(bytes.toString('utf8')) as Partial<AdapterShape>;
  return {
    r: config.r ?? 8, // PEFT's own defaults
    lora_alpha: config.lora_alpha ?? 8,
    lora_dropout: config.lora_dropout ?? 0,
    target_modules: config.target_modules ?? 'all-linear',
    use_rslora: config.use_rslora ?? false,
  };
}

/** One spelling for equal sets of modules. */
function modulesOf(targets: string | readonly string[]): string {
  const names = targets === 'all-linear' ? LINEAR_MODULES : targets;
  return typeof names === 'string' ? `pattern ${names}` : [...new Set(names)].sort().join();
}

function contradiction(option: string, asked: unknown, has: unknown, model: string) {
  const [given, fixed] = [JSON.stringify(asked).slice(0, 200), JSON.stringify(has).slice(0, 200)];
  const message = `'adapter.${option}' is ${given}, but ${model} was trained with ${fixed}. Leave it out to inherit it.`;
  return badRequest(message, `adapter.${option}`, 'conflicting_parameters');
}
