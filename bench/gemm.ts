/** Own matrix product at training shapes, GFLOP/s and the ratio to the best shape of the run. */
import { openDevice } from '../workers/engine/device.ts';
import { Tensor } from '../workers/engine/tensor.ts';
import { machine, median, options, round, seconds } from './options.ts';

const shapes: [number, number, number][] = [
  [1024, 1024, 1024],
  [256, 3072, 1024],
  [2048, 2560, 2560],
  [64, 4096, 1024],
  [2048, 256, 256],
  [2048, 704, 256],
  [2048, 2048, 256],
  [1, 9728, 2560],
];

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, { runs: 7 });
  const device = openDevice({ kind: 'cpu' });
  const rows = shapes.map(([m, n, k]) => ({ shape: `${m}x${n}x${k}`, ...speed(device, m, n, k, o.runs) }));
  return { ...machine(), isa: device.native.info().isa, threads: device.threads, gflops: rows };
}

function speed(
  device: ReturnType<typeof openDevice>,
  m: number,
  n: number,
  k: number,
  runs: number,
): Record<string, number> {
  const result: Record<string, number> = {};
  for (const dtype of ['f32', 'bf16'] as const) {
    const random = (size: number) => Float32Array.from({ length: size }, () => Math.random() - 0.5);
    const x = Tensor.fromFloat32(device, random(m * k), [m, k], dtype);
    const w = Tensor.fromFloat32(device, random(n * k), [n, k], dtype);
    const y = Tensor.empty(device, [m, n], dtype);
    const packed = device.native.packWeight(w.handle);
    const gflops = (work: () => void) => {
      work();
      return round((2 * m * n * k) / median(Array.from({ length: runs }, () => seconds(work))) / 1e9);
    };
    result[dtype] = gflops(() => device.native.gemm(y.handle, x.handle, w.handle, false, true, 1, 0));
    result[`${dtype}_packed`] = gflops(() => device.native.gemmPacked(y.handle, x.handle, packed, 1, 0));
    device.native.tensorFree(packed);
    for (const tensor of [x, w, y]) tensor.dispose();
  }
  return result;
}
