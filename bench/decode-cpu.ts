/**
 * Decoding on the CPU through the paged cache: tokens/s of one stream and of several streams with one adapter each,
 * against the floor of reading the weights once a step at the memory speed measured in the same run.
 */
import { openDevice } from '../workers/engine/device.ts';
import { createModel, openModel } from '../workers/engine/models/index.ts';
import { KvCache } from '../workers/engine/models/kv-cache.ts';
import { LoraAdapter } from '../workers/engine/peft/lora.ts';
import { readCeiling } from './ceilings.ts';
import { machine, median, options, peakRssMib, round, seconds } from './options.ts';
import { matmulParameters, shape } from './shapes.ts';

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, {
    model: 'qwen3-0.6b',
    layers: 0,
    dtype: 'bf16',
    context: 128,
    streams: 8,
    r: 8,
    steps: 15,
  });
  const dtype = o.dtype === 'f32' ? 'f32' : 'bf16';
  const config = shape(o.model);
  const device = openDevice({ kind: 'cpu' });
  const model = await servingModel(config, device, dtype);
  const blocksEach = Math.ceil((o.context + o.steps + 2) / 16);
  const cache = new KvCache(model, { blocks: blocksEach * o.streams, blockSize: 16 });
  const lora = {
    r: o.r,
    lora_alpha: 2 * o.r,
    lora_dropout: 0,
    target_modules: 'all-linear' as const,
    use_rslora: false,
  };
  const adapters = Array.from({ length: o.streams }, (_, seed) => LoraAdapter.create(model, lora, seed));

  const decode = (streams: number, position: number, withAdapters: boolean) =>
    model.forwardPaged(decodeBatch(streams, position, blocksEach, withAdapters ? adapters : null), cache);
  const measure = (streams: number, withAdapters: boolean) => {
    decode(streams, o.context, withAdapters);
    return median(
      Array.from({ length: o.steps }, (_, i) => seconds(() => decode(streams, o.context + i, withAdapters))),
    );
  };

  const bandwidth = [readCeiling(device)];
  const single = measure(1, false);
  bandwidth.push(readCeiling(device));
  const base = measure(o.streams, false);
  const adapted = measure(o.streams, true);
  bandwidth.push(readCeiling(device));
  const { trunk, head } = matmulParameters(config, o.r);
  const weightBytes = (trunk + head) * (dtype === 'bf16' ? 2 : 4);
  const floor = (Math.max(...bandwidth) * 1e9) / weightBytes;
  return {
    ...o,
    ...machine(),
    isa: device.native.info().isa,
    threads: device.threads,
    tokens_per_second: round(1 / single),
    floor_tokens_per_second: round(floor),
    ratio_to_floor: round(1 / single / floor),
    read_gb_per_second: round(Math.max(...bandwidth)),
    batch_tokens_per_second: round(o.streams / base),
    batch_adapters_tokens_per_second: round(o.streams / adapted),
    ratio_adapters_to_base: round(base / adapted),
    peak_rss_mib: peakRssMib(),
  };
}

/** A random model as the inference worker holds it: linear weights in panel layout. */
async function servingModel(
  config: Parameters<typeof createModel>[0],
  device: ReturnType<typeof openDevice>,
  dtype: 'f32' | 'bf16',
) {
  const { mkdtemp, rm } = await import('node:fs/promises');
  const { tmpdir } = await import('node:os');
  const { join } = await import('node:path');
  const folder = await mkdtemp(join(tmpdir(), 'lathe-bench-'));
  const random = createModel(config, device, { dtype, seed: 1, trainable: false });
  await random.save(folder);
  random.dispose();
  const model = openModel(folder, device, { dtype, forServing: true });
  await rm(folder, { recursive: true });
  return model;
}

/** One new token for each stream at `position`; stream `s` owns `blocksEach` consecutive blocks. */
function decodeBatch(streams: number, position: number, blocksEach: number, adapters: LoraAdapter[] | null) {
  const each = <T>(f: (s: number) => T) => Array.from({ length: streams }, (_, s) => f(s));
  return {
    ids: Int32Array.from(each((s) => 17 + s)),
    positions: new Int32Array(streams).fill(position),
    cuSeqlensQ: Int32Array.from({ length: streams + 1 }, (_, s) => s),
    contextLens: new Int32Array(streams).fill(position + 1),
    blockTables: Int32Array.from({ length: streams * blocksEach }, (_, i) => i),
    maxBlocks: blocksEach,
    slots: Int32Array.from(each((s) => s * blocksEach * 16 + position)),
    logitRows: Int32Array.from(each((s) => s)),
    adapters: adapters
      ? each((s) => ({ adapter: adapters[s]!, start: s, end: s + 1 }))
      : [{ adapter: null, start: 0, end: streams }],
  };
}
