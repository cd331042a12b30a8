/**
 * Own matrix product against oneDNN and OpenBLAS in turns, on the same inputs, and against what the multipliers give in
 * registers. y = x·Wᵀ; `plain`: W row by row as training has it, `packed`: in each side's own layout as serving has it.
 */
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { openDevice } from '../workers/engine/device.ts';
import { Tensor } from '../workers/engine/tensor.ts';
import type { Device } from './ceilings.ts';
import { machine, median, options, round, seconds } from './options.ts';
import { BuildError, program } from './peers/build.ts';
import { type Comparison, interleave } from './peers/interleave.ts';
import { PeerProcess } from './peers/peer-process.ts';

type FloatType = 'f32' | 'bf16';
type Weights = 'plain' | 'packed';

/** The shapes of a Qwen3 model's linears, and a square: m rows, n columns, depth k. */
const shapes: [number, number, number][] = [
  [1024, 1024, 1024],
  [256, 3072, 1024],
  [2048, 2560, 2560],
  [256, 9728, 2560],
  [64, 4096, 1024],
];
const COMPARED = 4096; // elements of y, as in peers/gemm_peer.h
const BLOCK_SECONDS = 0.15;
/** Norm of the difference of two correct products: f32 sums in other orders; bf16 rounds y (2⁻⁹ each side). */
const AGREE: Record<FloatType, number> = { f32: 1e-5, bf16: 5e-3 };

interface Peer {
  process: PeerProcess;
  dtypes: FloatType[];
  weights: Weights[];
}

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, {
    pairs: 5,
    threads: availableParallelism(),
    dtype: 'all',
    weights: 'all',
    shape: 'all',
  });
  const names = shapes.map((dims) => dims.join('x'));
  const wanted = chosen(names, o.shape, 'shape');
  const device = openDevice({ kind: 'cpu', threads: o.threads });
  const peak = JSON.parse(execFileSync(program(['peak.cc']), [String(o.threads)], { encoding: 'utf8' }));
  const { peers, missing } = await startPeers(o.threads);
  const rows: Record<string, unknown>[] = [];
  try {
    for (const dtype of chosen(['bf16', 'f32'] as const, o.dtype, 'dtype')) {
      for (const weights of chosen(['plain', 'packed'] as const, o.weights, 'weights')) {
        for (const name of wanted) {
          const dims = shapes[names.indexOf(name)]!;
          rows.push(await row(device, peers, dtype, weights, dims, o.pairs, peak));
        }
      }
    }
  } finally {
    for (const peer of peers) peer.process.close();
  }
  const least = (key: string, dtype: FloatType) => {
    const found = rows.filter(
      (r) => r.dtype === dtype && r.weights === 'plain' && typeof r[key] === 'number',
    );
    return found.length ? Math.min(...found.map((r) => r[key] as number)) : null;
  };
  return {
    ...machine(),
    isa: device.native.info().isa,
    threads: device.threads,
    peers: peers.map((peer) => peer.process.facts.version),
    ...(missing.length ? { peers_missing: missing } : {}),
    peak_gflops: { fma: round(peak.fma / 1e9), ...(peak.tiles ? { tiles: round(peak.tiles / 1e9) } : {}) },
    // The smallest over the shapes with plain weights.
    ratio_to_peer: { bf16: least('ratio_to_peer', 'bf16'), f32: least('ratio_to_peer', 'f32') },
    ratio_to_floor: { bf16: least('ratio_to_floor', 'bf16'), f32: least('ratio_to_floor', 'f32') },
    shapes: rows,
    training: trainingRows(device, peak),
  };
}

/** The values that an option asks for: one of them, or all. */
function chosen<T extends string>(values: readonly T[], option: string, name: string): T[] {
  const found = values.filter((value) => option === 'all' || option === value);
  if (found.length === 0) throw new Error(`--${name} is all or one of: ${values.join(', ')}`);
  return found;
}

async function startPeers(threads: number): Promise<{ peers: Peer[]; missing: string[] }> {
  const peers: Peer[] = [];
  const missing: string[] = [];
  const start = async (name: string, library: string, dtypes: FloatType[], weights: Weights[]) => {
    try {
      const path = program([`peers/gemm_${name}.cc`, 'peers/gemm_peer.h'], [library]);
      const env = { OMP_NUM_THREADS: String(threads), OPENBLAS_NUM_THREADS: String(threads) };
      peers.push({ process: await PeerProcess.start(name, [path], { env }), dtypes, weights });
    } catch (error) {
      if (!(error instanceof BuildError)) throw error;
      missing.push(`${name}: ${error.message}`);
    }
  };
  await start('onednn', 'dnnl', ['bf16', 'f32'], ['plain', 'packed']);
  await start('openblas', 'openblas', ['f32'], ['plain']);
  return { peers, missing };
}

/** One shape: against every peer that multiplies it; the ratio is that to the best of them. */
async function row(
  device: Device,
  peers: Peer[],
  dtype: FloatType,
  weights: Weights,
  [m, n, k]: [number, number, number],
  pairs: number,
  peak: { fma: number; tiles?: number },
): Promise<Record<string, unknown>> {
  const flops = 2 * m * n * k;
  const own = ownProduct(device, dtype, weights, m, n, k);
  try {
    const calls = Math.max(1, Math.round(BLOCK_SECONDS / seconds(own.multiply)));
    const side = {
      name: 'lathe',
      run: () => {
        own.multiply();
        return {
          seconds: seconds(() => {
            for (let i = 0; i < calls; i++) own.multiply();
          }),
        };
      },
    };
    const found: { name: string; comparison: Comparison }[] = [];
    for (const peer of peers.filter((p) => p.dtypes.includes(dtype) && p.weights.includes(weights))) {
      const answer = await peer.process.ask({ run: `shape ${dtype} ${m} ${n} ${k} ${weights} ${SEED}` });
      agree(own.values(), answer.values as number[], dtype, `${peer.process.name} ${m}x${n}x${k}`);
      const comparison = await interleave(side, peer.process.side(`calls ${calls}`), pairs);
      found.push({ name: peer.process.name, comparison });
    }
    found.sort((a, b) => a.comparison.ratio - b.comparison.ratio);
    const best = found[0]?.comparison;
    const each =
      (best ? best.seconds.lathe! : median(Array.from({ length: pairs }, () => side.run().seconds))) / calls;
    const bound = dtype === 'bf16' && peak.tiles ? peak.tiles : peak.fma;
    return {
      shape: `${m}x${n}x${k}`,
      dtype,
      weights,
      gflops: round(flops / each / 1e9),
      ratio_to_floor: round(flops / each / bound),
      ...(best ? { ratio_to_peer: best.ratio, ratio_min: best.ratio_min, ratio_max: best.ratio_max } : {}),
      ...(best ? { spread: best.spread_of_a, steal: best.steal, steal_max: best.steal_max } : {}),
      peers: Object.fromEntries(
        found.map(({ name, comparison }) => [name, round((flops * calls) / comparison.seconds[name]! / 1e9)]),
      ),
    };
  } finally {
    own.close();
  }
}

const SEED = 1;

/** The same numbers in [−1, 1) as Matrix::fill of peers/gemm_peer.h. */
function seededNumbers(size: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 8388608 - 1;
  });
}

function ownProduct(device: Device, dtype: FloatType, weights: Weights, m: number, n: number, k: number) {
  const x = Tensor.fromFloat32(device, seededNumbers(m * k, SEED), [m, k], dtype);
  const w = Tensor.fromFloat32(device, seededNumbers(n * k, SEED + 1), [n, k], dtype);
  const y = Tensor.empty(device, [m, n], dtype);
  const packed = weights === 'packed' ? device.native.packWeight(w.handle) : null;
  return {
    multiply: () =>
      packed
        ? device.native.gemmPacked(y.handle, x.handle, packed, 1, 0)
        : device.native.gemm(y.handle, x.handle, w.handle, false, true, 1, 0),
    values: () => y.toFloat32(),
    close: () => {
      if (packed) device.native.tensorFree(packed);
      for (const tensor of [x, w, y]) tensor.dispose();
    },
  };
}

/** Throws when the two sides' products differ by more than rounding. */
function agree(own: Float32Array, theirs: number[], dtype: FloatType, label: string): void {
  const step = own.length > COMPARED ? Math.floor(own.length / COMPARED) : 1;
  let difference = 0;
  let norm = 0;
  for (const [i, value] of theirs.entries()) {
    difference += (own[i * step]! - value) ** 2;
    norm += value ** 2;
  }
  const relative = Math.sqrt(difference / norm);
  if (!(relative < AGREE[dtype])) throw new Error(`${label}: products differ by ${relative}`);
}

/** What a LoRA step multiplies: f32 activations by bf16 weights, forward y = x·Wᵀ and back dx = dy·W; GFLOP/s. */
function trainingRows(device: Device, peak: { fma: number; tiles?: number }): Record<string, unknown>[] {
  return [
    [512, 3072, 1024],
    [512, 1024, 3072],
    [2048, 704, 256],
  ].map(([m, n, k]) => {
    const random = (rows: number, columns: number, dtype: FloatType) =>
      Tensor.fromFloat32(device, seededNumbers(rows * columns, SEED), [rows, columns], dtype);
    const [x, w, y] = [random(m!, k!, 'f32'), random(n!, k!, 'bf16'), random(m!, n!, 'f32')];
    const gflops = (multiply: () => void) => {
      multiply();
      return (2 * m! * n! * k!) / median(Array.from({ length: 15 }, () => seconds(multiply))) / 1e9;
    };
    const forward = gflops(() => device.native.gemm(y.handle, x.handle, w.handle, false, true, 1, 0));
    const back = gflops(() => device.native.gemm(x.handle, y.handle, w.handle, false, false, 1, 0));
    for (const tensor of [x, w, y]) tensor.dispose();
    // On tiles an f32 operand enters as two numbers of bf16: half of their rate is the bound.
    const bound = (peak.tiles ? peak.tiles / 2 : peak.fma) / 1e9;
    return {
      shape: `${m}x${n}x${k}`,
      forward_gflops: round(forward),
      back_gflops: round(back),
      ratio_to_floor: round(Math.min(forward, back) / bound),
    };
  });
}
