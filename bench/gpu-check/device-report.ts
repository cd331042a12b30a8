/** Which device this is and what it can do at best: a large product and a copy, the ceilings of everything else. */
import type { Device } from '../../workers/engine/device.ts';
import { Tensor } from '../../workers/engine/tensor.ts';
import { median, round } from '../options.ts';
import type { Context } from './report.ts';

export interface Ceilings {
  /** FLOP/s of a bf16 product on random data. */
  flops: number;
  /** Bytes a second of a copy, read and write counted. */
  bytes: number;
}

/** Side of the square product: large enough to fill a GPU, small enough for a CPU. */
const SIDE = { cuda: 8192, cpu: 2048 } as const;
/** Runs between two waits: on a GPU a wait costs as much as a short run. */
const TIMES = { cuda: 10, cpu: 1 } as const;
const COPY_BYTES = { cuda: 2 ** 31, cpu: 2 ** 28 } as const;

/** Seconds that `work` takes, the mean of `times` runs in a row, the device's queue drained before and after. */
export function timed(device: Device, work: () => void, times: number): number {
  if (device.kind === 'cuda') device.native.synchronize();
  const start = performance.now();
  for (let i = 0; i < times; i++) work();
  if (device.kind === 'cuda') device.native.synchronize();
  return (performance.now() - start) / 1000 / times;
}

export function measureCeilings(device: Device, { report }: Context): Ceilings {
  const flops = product(device);
  const bytes = copy(device);
  report.keys.ceiling_gemm_tflops = round(flops / 1e12, 4);
  report.keys.ceiling_copy_gb_per_second = round(bytes / 1e9, 4);
  report.measure(`bf16 product of ${SIDE[device.kind]}³`, `${round(flops / 1e12, 4)} TFLOP/s`);
  report.measure('copy, read and write counted', `${round(bytes / 1e9, 4)} GB/s`);
  return { flops, bytes };
}

function product(device: Device): number {
  const n = SIDE[device.kind];
  const [a, b, c] = [1, 2, 3].map(() => Tensor.empty(device, [n, n], 'bf16')) as [Tensor, Tensor, Tensor];
  for (const [stream, x] of [a, b].entries()) device.native.randomNormal(x.handle, 0, 1, 1, stream);
  const multiply = () => device.native.gemm(c.handle, a.handle, b.handle, false, true, 1, 0);
  multiply();
  const runs = Array.from({ length: 5 }, () => timed(device, multiply, TIMES[device.kind]));
  for (const tensor of [a, b, c]) tensor.dispose();
  return (2 * n ** 3) / median(runs);
}

function copy(device: Device): number {
  const rows = 1024;
  const shape = [rows, COPY_BYTES[device.kind] / 2 / rows];
  const [from, to] = [0, 1].map(() => Tensor.empty(device, shape, 'bf16')) as [Tensor, Tensor];
  device.native.randomNormal(from.handle, 0, 1, 1, 1);
  const run = () => device.native.copy(to.handle, from.handle);
  run();
  const runs = Array.from({ length: 5 }, () => timed(device, run, TIMES[device.kind]));
  for (const tensor of [from, to]) tensor.dispose();
  return (2 * from.bytes) / median(runs);
}
