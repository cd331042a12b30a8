/**
 * The weight files of a Hugging Face folder as one name → tensor source: a single model.safetensors or shards with an
 * index. Pickle formats are never read. Paths in the index are untrusted.
 */
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { join, sep } from 'node:path';
import type { Device } from '../device.ts';
import type { FloatDType, Tensor } from '../tensor.ts';
import { openSafetensors, type SafetensorsFile, type StoredTensor } from './safetensors.ts';

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const SHARD_NAME = /^[A-Za-z0-9._-]+\.safetensors$/;

export interface WeightFiles {
  names(): Iterable<string>;
  get(name: string): StoredTensor | undefined;
  load(device: Device, name: string, dtype: FloatDType): Tensor;
}

/** @throws when the folder has no safetensors weights, or when its index points outside it or to a missing tensor */
export function openWeightFiles(dir: string): WeightFiles {
  const index = join(dir, INDEX);
  if (existsSync(join(dir, SINGLE))) {
    const file = openSafetensors(resolveInside(dir, SINGLE));
    return {
      names: () => file.tensors.keys(),
      get: (name) => file.tensors.get(name),
      load: (device, name, dtype) => file.load(device, name, dtype),
    };
  }
  if (!existsSync(index)) throw noWeights(dir);
  const fileOf = openShards(dir, index);
  return {
    names: () => fileOf.keys(),
    get: (name) => fileOf.get(name)?.tensors.get(name),
    load(device, name, dtype) {
      const file = fileOf.get(name);
      if (file === undefined) throw new Error(`${index} does not list the tensor ${JSON.stringify(name)}`);
      return file.load(device, name, dtype);
    },
  };
}

/** The files that openWeightFiles would read from this folder: the index too. @throws as it does, without a look inside */
export function weightFileNames(dir: string): string[] {
  if (existsSync(join(dir, SINGLE))) return [SINGLE];
  if (!existsSync(join(dir, INDEX))) throw noWeights(dir);
  const shards = new Set(readWeightMap(join(dir, INDEX)).map(([, shard]) => shard));
  return [INDEX, ...shards];
}

function noWeights(dir: string): Error {
  return new Error(`${dir} holds neither ${SINGLE} nor ${INDEX} (pickle files are not read)`);
}

/** Tensor names with the shard of each. */
function readWeightMap(index: string): [string, string][] {
  const weightMap = (JSON.parse(readFileSync(index, 'utf8')) as { weight_map?: unknown }).weight_map;
  if (weightMap === null || typeof weightMap !== 'object' || Array.isArray(weightMap)) {
    throw new Error(`${index}: weight_map must be an object`);
  }
  return Object.entries(weightMap as Record<string, unknown>).map(([name, shard]) => {
    if (typeof shard === 'string' && SHARD_NAME.test(shard)) return [name, shard];
    throw new Error(
      `${index}: ${JSON.stringify(shard)} is not the name of a safetensors file in this folder`,
    );
  });
}

function openShards(dir: string, index: string): Map<string, SafetensorsFile> {
  const shards = new Map<string, SafetensorsFile>();
  const fileOf = new Map<string, SafetensorsFile>();
  for (const [name, shard] of readWeightMap(index)) {
    if (!shards.has(shard)) shards.set(shard, openSafetensors(resolveInside(dir, shard)));
    const file = shards.get(shard)!;
    if (!file.tensors.has(name)) {
      throw new Error(`${file.path} lacks the tensor ${JSON.stringify(name)} that the index promises`);
    }
    fileOf.set(name, file);
  }
  return fileOf;
}

/** Follows links only within the folder, or to the blobs of the Hugging Face cache that the folder is a snapshot of. */
function resolveInside(dir: string, name: string): string {
  const path = realpathSync(join(dir, name));
  const roots = [dir, join(dir, '..', '..', 'blobs')]
    .filter((root) => existsSync(root))
    .map((root) => realpathSync(root));
  if (!roots.some((root) => path.startsWith(root + sep)))
    throw new Error(`${join(dir, name)} links outside its folder`);
  return path;
}
