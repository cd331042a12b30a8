/**
 * The serving peers on this machine: one random model in a cache folder outside the repository, in the formats that they
 * read; node-llama-cpp installed there on demand; and the check that a peer computes what Lathe computes.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import type { Device } from '../../workers/engine/device.ts';
import { createModel } from '../../workers/engine/models/index.ts';
import { round } from '../options.ts';
import { shape } from '../shapes.ts';
import { interleave, type Side } from './interleave.ts';
import { PeerProcess } from './peer-process.ts';

const LLAMA_VERSION = '3.22.1';
export const PEERS = ['llama-bf16', 'llama-q8_0', 'torch-bf16'] as const;
export type PeerName = (typeof PEERS)[number];

/** Where models and packages of the peers lie; they take some 4 GB. */
const cache = path.join(homedir(), '.cache', 'lathe', 'peers');
const here = (file: string) => path.join(import.meta.dirname, file);

/** `all`, `none`, or names separated by commas; an unknown name is an error that lists them. */
export function readPeers(list: string): PeerName[] {
  if (list === 'none') return [];
  if (list === 'all') return [...PEERS];
  return list.split(',').map((name) => {
    const known = PEERS.find((peer) => peer === name);
    if (!known) throw new Error(`unknown peer ${name}; known: all, none, ${PEERS.join(', ')}`);
    return known;
  });
}

/** The folder of a random bf16 model of this shape, made on the first call; the same bytes on every machine. */
export async function randomModelFolder(device: Device, name: string): Promise<string> {
  const folder = path.join(cache, `${name}-bf16-seed1`);
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true });
  const model = createModel(shape(name), device, { dtype: 'bf16', seed: 1, trainable: false });
  const unfinished = `${folder}.part`;
  await model.save(unfinished);
  model.dispose();
  renameSync(unfinished, folder);
  return folder;
}

/** Starts a peer on the model in `folder` (of randomModelFolder). @throws PeerError, or the failed command's error */
async function startPeer(
  name: PeerName,
  folder: string,
  { python, threads }: { python: string; threads: number },
): Promise<PeerProcess> {
  const count = ['--threads', String(threads)];
  if (name === 'torch-bf16')
    return PeerProcess.start(name, [python, here('torch_serving.py'), '--folder', folder, ...count]);
  const type = name.slice('llama-'.length);
  const model = `${folder}.${type}.gguf`;
  if (!existsSync(model))
    execFileSync(python, [here('write_gguf.py'), '--folder', folder, '--type', type, '--out', model], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  const files = ['--package', llamaPackage(), '--model', model];
  return PeerProcess.start(name, [process.execPath, here('llama.mjs'), ...files, ...count]);
}

/** The folder that holds node-llama-cpp with its prebuilt CPU library and no other. */
function llamaPackage(): string {
  const folder = path.join(cache, `node-llama-cpp-${LLAMA_VERSION}`);
  if (existsSync(path.join(folder, 'node_modules', 'node-llama-cpp'))) return folder;
  const unfinished = `${folder}.part`;
  mkdirSync(unfinished, { recursive: true });
  writeFileSync(path.join(unfinished, 'package.json'), '{"private":true}\n');
  const platform = process.platform === 'darwin' ? 'mac' : process.platform;
  const prebuilt = `@node-llama-cpp/${platform}-${process.arch}${platform === 'mac' && process.arch === 'arm64' ? '-metal' : ''}`;
  const packages = [`node-llama-cpp@${LLAMA_VERSION}`, `${prebuilt}@${LLAMA_VERSION}`];
  execFileSync(
    'npm',
    ['install', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund', ...packages],
    {
      cwd: unfinished,
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  renameSync(unfinished, folder);
  return folder;
}

/**
 * Relative norm of the difference of two log softmaxes about their means. bf16 activations through 28 layers differ by
 * about 1e-2, 8-bit weights by 3e-2 (measured); another model or another prompt gives 1.4.
 */
const LOGITS_DISTANCE_MAX = 0.1;

/** Whether a peer's next-token distribution after `tokens` is ours. @throws when it computes something else */
async function checkAgainst(
  peer: PeerProcess,
  tokens: readonly number[],
  own: Float32Array,
): Promise<{ logits_distance: number; same_greedy_token: boolean }> {
  const { logprobs, token } = (await peer.ask({ run: { what: 'logits', tokens } })) as {
    logprobs: number[];
    token: number;
  };
  if (logprobs.length !== own.length)
    throw new Error(`${peer.name} has ${logprobs.length} logits instead of ${own.length}`);
  const mean = (values: ArrayLike<number>) => {
    let sum = 0;
    for (let i = 0; i < values.length; i++) sum += values[i]!;
    return sum / values.length;
  };
  const [ours, theirs] = [mean(own), mean(logprobs)];
  let [difference, norm, best] = [0, 0, 0];
  for (let i = 0; i < own.length; i++) {
    const centred = own[i]! - ours;
    difference += (logprobs[i]! - theirs - centred) ** 2;
    norm += centred ** 2;
    if (own[i]! > own[best]!) best = i;
  }
  const distance = Math.sqrt(difference / norm);
  if (!(distance < LOGITS_DISTANCE_MAX))
    throw new Error(`${peer.name} computes something else: its logits are ${distance} away from ours`);
  return { logits_distance: round(distance), same_greedy_token: best === token };
}

/**
 * Own runs in turns with each peer, once it has shown that it computes the same: int8 against the peer of eight bits, bf16
 * against the others. `after` is called when a peer is done.
 */
export async function compareWithPeers(
  peers: readonly PeerName[],
  { folder, python, threads, pairs }: { folder: string; python: string; threads: number; pairs: number },
  own: { bf16: Side; int8: Side; logits: Float32Array },
  request: { what: string; tokens: readonly number[]; steps?: number },
  after: () => void = () => {},
): Promise<{ comparisons: Record<string, unknown>; ratios: Record<string, number> }> {
  const comparisons: Record<string, unknown> = {};
  const ratios: Record<string, number> = {};
  for (const name of peers) {
    const peer = await startPeer(name, folder, { python, threads });
    try {
      const check = await checkAgainst(peer, request.tokens, own.logits);
      const ours = name === 'llama-q8_0' ? own.int8 : own.bf16;
      const { blocks: _, ...found } = await interleave(ours, peer.side(request), pairs);
      comparisons[name] = { ...found, ...check, ...peer.facts };
      ratios[name] = found.ratio;
    } finally {
      peer.close();
    }
    after();
  }
  return { comparisons, ratios };
}
