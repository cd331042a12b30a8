/**
 * Decoding on the CPU as the worker does it: one stream in bf16 and with int8 weights, against peers on the same weights
 * and threads and against the floor of reading the weights once a token at the memory speed of the same run; and several
 * streams with an adapter each against the same streams on the base.
 */
import { type Device, openDevice } from '../workers/engine/device.ts';
import { readCeiling } from './ceilings.ts';
import { decodeBench } from './decoding.ts';
import { machine, options, peakRssMib, round } from './options.ts';
import { type Comparison, interleave } from './peers/interleave.ts';
import { compareWithPeers, PEERS, randomModelFolder, readPeers } from './peers/serving.ts';
import { prompt, ServingRuns } from './serving-runs.ts';
import { matmulParameters, shape } from './shapes.ts';

const DEFAULTS = {
  model: 'qwen3-0.6b',
  context: 128,
  steps: 16,
  streams: 8,
  r: 8,
  threads: 2,
  pairs: 5,
  peers: 'all',
  python: 'python3',
};
type Options = typeof DEFAULTS;

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, DEFAULTS);
  const peers = readPeers(o.peers);
  const device = openDevice({ kind: 'cpu', threads: o.threads });
  const folder = await randomModelFolder(device, o.model);
  const bandwidth = [readCeiling(device)];
  const single = await oneStream(device, folder, o, peers);
  bandwidth.push(readCeiling(device));
  const adapters = await severalStreams(device, folder, o);
  bandwidth.push(readCeiling(device));

  const { trunk, head } = matmulParameters(shape(o.model), o.r);
  const bytesPerSecond = Math.max(...bandwidth) * 1e9;
  const speed = (seconds: number, tokens = o.steps) => tokens / seconds;
  const bf16 = speed(single.own.seconds.bf16!);
  const int8 = speed(single.own.seconds.int8!);
  return {
    ...o,
    ...machine(),
    isa: device.native.info().isa,
    tokens_per_second: round(bf16),
    int8_tokens_per_second: round(int8),
    read_gb_per_second: round(Math.max(...bandwidth)),
    ratio_to_floor: round(bf16 / (bytesPerSecond / ((trunk + head) * 2))),
    int8_ratio_to_floor: round(int8 / (bytesPerSecond / (trunk + head))),
    ratio_to_peer: single.ratios,
    peers_not_run: PEERS.filter((name) => !peers.includes(name)),
    batch_tokens_per_second: round(speed(adapters.seconds.base!, o.steps * o.streams)),
    batch_adapters_tokens_per_second: round(speed(adapters.seconds.adapters!, o.steps * o.streams)),
    ratio_adapters_to_base: round(1 / adapters.ratio),
    comparisons: { ...single.comparisons, adapters },
    own: single.own,
    peak_rss_mib: peakRssMib(),
  };
}

/** bf16 against int8, and each against the peers of its precision. */
async function oneStream(device: Device, folder: string, o: Options, peers: ReturnType<typeof readPeers>) {
  const tokens = prompt(o.context);
  const positions = o.context + o.steps + 1;
  const bf16 = new ServingRuns(folder, device, positions, null);
  const int8 = new ServingRuns(folder, device, positions, 'int8');
  const side = (name: string, runs: ServingRuns) => ({ name, run: () => runs.decode(tokens, o.steps) });
  try {
    const logits = bf16.logits(tokens);
    const own = await interleave(side('bf16', bf16), side('int8', int8), o.pairs);
    const compared = await compareWithPeers(
      peers,
      { ...o, folder },
      { bf16: side('bf16', bf16), int8: side('int8', int8), logits },
      { what: 'decode', tokens, steps: o.steps },
    );
    return { own, ...compared };
  } finally {
    bf16.dispose();
    int8.dispose();
  }
}

/** `streams` streams on the base and with an adapter each, in turns; the ratio says how much faster the base is. */
async function severalStreams(
  device: Device,
  folder: string,
  o: Options,
): Promise<Omit<Comparison, 'blocks'>> {
  const { decode, dispose } = await decodeBench(device, shape(o.model), {
    dtype: 'bf16',
    streams: o.streams,
    positions: o.context + o.steps + 2,
    r: o.r,
    folder,
  });
  const side = (name: string, withAdapters: boolean) => ({
    name,
    run: () => {
      const start = performance.now();
      for (let i = 0; i < o.steps; i++) decode(o.streams, o.context + i, withAdapters);
      return { seconds: (performance.now() - start) / 1000 };
    },
  });
  const { blocks: _, ...found } = await interleave(side('base', false), side('adapters', true), o.pairs);
  dispose();
  return found;
}
