/**
 * Prefill on the CPU: from a prompt to its first greedy token, in bf16 and with int8 weights, against peers on the same
 * weights, tokens and threads, and against the floor of its products at the speed measured in the same run.
 */
import { openDevice } from '../workers/engine/device.ts';
import { gemmCeiling } from './ceilings.ts';
import { machine, median, options, peakRssMib, round } from './options.ts';
import { interleave } from './peers/interleave.ts';
import { compareWithPeers, PEERS, randomModelFolder, readPeers } from './peers/serving.ts';
import { prompt, ServingRuns } from './serving-runs.ts';
import { matmulParameters, shape } from './shapes.ts';

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, {
    model: 'qwen3-0.6b',
    tokens: 256,
    threads: 2,
    pairs: 5,
    peers: 'all',
    python: 'python3',
  });
  const peers = readPeers(o.peers);
  const device = openDevice({ kind: 'cpu', threads: o.threads });
  const folder = await randomModelFolder(device, o.model);
  const tokens = prompt(o.tokens);
  const bf16 = new ServingRuns(folder, device, o.tokens + 1, null);
  const int8 = new ServingRuns(folder, device, o.tokens + 1, 'int8');
  const logits = bf16.logits(tokens);
  const side = (name: string, runs: ServingRuns) => ({ name, run: () => runs.prefill(tokens) });

  const ceilings = [gemmCeiling(device, 'bf16')];
  const own = await interleave(side('bf16', bf16), side('int8', int8), o.pairs);
  ceilings.push(gemmCeiling(device, 'bf16'));
  const { comparisons, ratios } = await compareWithPeers(
    peers,
    { ...o, folder },
    { bf16: side('bf16', bf16), int8: side('int8', int8), logits },
    { what: 'prefill', tokens },
    () => ceilings.push(gemmCeiling(device, 'bf16')),
  );
  const { trunk, head } = matmulParameters(shape(o.model), 0);
  const floor = (2 * (trunk * o.tokens + head)) / (median(ceilings) * 1e9);
  const seconds = own.seconds.bf16!;
  return {
    ...o,
    ...machine(),
    isa: device.native.info().isa,
    tokens_per_second: round(o.tokens / seconds),
    int8_tokens_per_second: round(o.tokens / own.seconds.int8!),
    floor_tokens_per_second: round(o.tokens / floor),
    gemm_gflops: round(median(ceilings)),
    ratio_to_floor: round(floor / seconds),
    ratio_to_peer: ratios,
    peers_not_run: PEERS.filter((name) => !peers.includes(name)),
    comparisons,
    own,
    peak_rss_mib: peakRssMib(),
  };
}
