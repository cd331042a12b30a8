/**
 * Reads what the service must know of a base model from its Hugging Face folder: family, context, number of parameters.
 * Only headers are read, never weights; the workers check the model in earnest when they load it.
 */
import { open, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import type { BaseModelSource } from '../../config.ts';

export const FAMILIES = ['qwen3', 'qwen2', 'llama'] as const;

export interface BaseModelDescription extends BaseModelSource {
  family: (typeof FAMILIES)[number];
  parameterCount: number;
  contextLength: number;
  /** config.json as it is. */
  config: Record<string, unknown>;
}

/** The folder is no base model we can use; the message says why. */
export class BaseModelError extends Error {
  override name = 'BaseModelError';
}

const ConfigJson = z.looseObject({
  model_type: z.string(),
  max_position_embeddings: z
    .number()
    .int()
    .positive()
    .max(2 ** 26),
  tie_word_embeddings: z.boolean().default(false),
});
/** safetensors allows headers up to this size. */
const HEADER_BYTES_MAX = 100_000_000;

/** Throws BaseModelError naming the folder and what is missing or not supported. */
export async function describeBaseModel(source: BaseModelSource): Promise<BaseModelDescription> {
  const config = checkModelConfig(await readText(source, 'config.json'), source.id);
  const files = await readdir(source.location);
  const weights = files.filter((name) => name.endsWith('.safetensors'));
  if (weights.length === 0) throw new BaseModelError(`${source.location} has no .safetensors file.`);
  for (const needed of ['tokenizer.json']) {
    if (!files.includes(needed)) throw new BaseModelError(`${source.location} has no ${needed}.`);
  }
  const counts = await Promise.all(
    weights.map((name) => countParameters(path.join(source.location, name), config.tied)),
  );
  return {
    ...source,
    family: config.family,
    parameterCount: counts.reduce((sum, n) => sum + n, 0),
    contextLength: config.contextLength,
    config: config.raw,
  };
}

/** What config.json says, or BaseModelError when this is no model that Lathe can run. */
export function checkModelConfig(text: string, id: string) {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new BaseModelError(`config.json of ${id} is not JSON: ${(cause as Error).message}`, { cause });
  }
  const parsed = ConfigJson.safeParse(json);
  if (!parsed.success) {
    throw new BaseModelError(`config.json of ${id} is not usable: ${z.prettifyError(parsed.error)}`);
  }
  const family = FAMILIES.find((name) => name === parsed.data.model_type);
  if (!family) {
    const known = FAMILIES.join(', ');
    throw new BaseModelError(`${id} has model_type '${parsed.data.model_type}'; Lathe knows ${known}.`);
  }
  return {
    family,
    contextLength: parsed.data.max_position_embeddings,
    tied: parsed.data.tie_word_embeddings,
    raw: json as Record<string, unknown>,
  };
}

async function readText(source: BaseModelSource, name: string): Promise<string> {
  try {
    return await readFile(path.join(source.location, name), 'utf8');
  } catch (cause) {
    throw new BaseModelError(`Base model ${source.id}: cannot read ${path.join(source.location, name)}.`, {
      cause,
    });
  }
}

/** Sums the shapes in a safetensors header: 8 bytes of length (little endian), then JSON. */
async function countParameters(file: string, tied: boolean): Promise<number> {
  const handle = await open(file);
  try {
    const size = (await handle.stat()).size;
    const length = await readExactly(handle, 8, 0);
    const headerBytes = length ? Number(length.readBigUInt64LE()) : 0;
    if (headerBytes < 2 || headerBytes > HEADER_BYTES_MAX || headerBytes + 8 > size) {
      throw new BaseModelError(`${file} is not a safetensors file.`);
    }
    const text = (await readExactly(handle, headerBytes, 8))?.toString('utf8') ?? '';
    const header = z
      .record(z.string(), z.looseObject({ shape: z.array(z.number()).optional() }))
      .parse(JSON.parse(text));
    return Object.entries(header)
      .filter(([name]) => name !== '__metadata__' && !(tied && name === 'lm_head.weight'))
      .reduce((sum, [, { shape }]) => sum + (shape ?? []).reduce((product, n) => product * n, 1), 0);
  } catch (cause) {
    if (cause instanceof BaseModelError) throw cause;
    throw new BaseModelError(`${file} is not a safetensors file: ${(cause as Error).message}`, { cause });
  } finally {
    await handle.close();
  }
}

async function readExactly(
  handle: Awaited<ReturnType<typeof open>>,
  bytes: number,
  at: number,
): Promise<Buffer | null> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes), 0, bytes, at);
  return bytesRead === bytes ? buffer : null;
}
