/**
 * Decoding on the CPU through the paged cache: tokens/s of one stream and of several streams with one adapter each,
 * against the floor of reading the weights once a step at the memory speed measured in the same run.
 */
import { openDevice } from '../workers/engine/device.ts';
import { readCeiling } from './ceilings.ts';
import { decodeBench } from './decoding.ts';
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
  const positions = o.context + o.steps + 2;
  const { decode } = await decodeBench(device, config, { dtype, streams: o.streams, positions, r: o.r });
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
