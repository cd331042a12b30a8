/** What this machine can do right now, measured in the same run as the figure it bounds. */
import type { openDevice } from '../workers/engine/device.ts';
import { Tensor } from '../workers/engine/tensor.ts';
import { median, seconds } from './options.ts';

export type Device = ReturnType<typeof openDevice>;

/** Median GFLOP/s of an own 1024³ product in `dtype`: the compute ceiling that training can reach here. */
export function gemmCeiling(device: Device, dtype: 'f32' | 'bf16', runs = 7): number {
  const n = 1024;
  const random = () => Float32Array.from({ length: n * n }, () => Math.random() - 0.5);
  const a = Tensor.fromFloat32(device, random(), [n, n], dtype);
  const b = Tensor.fromFloat32(device, random(), [n, n], dtype);
  const c = Tensor.empty(device, [n, n], 'f32');
  const multiply = () => device.native.gemm(c.handle, a.handle, b.handle, false, true, 1, 0);
  multiply();
  const times = Array.from({ length: runs }, () => seconds(multiply));
  for (const tensor of [a, b, c]) tensor.dispose();
  return (2 * n ** 3) / median(times) / 1e9;
}

/**
 * GB/s of reading 512 MiB once with all threads, the best run of the faster of two reading ops: the ceiling of
 * single-stream decoding, which reads every weight once a token.
 */
export function readCeiling(device: Device, runs = 5): number {
  const elements = 128 * 1024 * 1024;
  const x = Tensor.empty(device, [elements], 'f32');
  device.native.randomUniform(x.handle, -1, 1, 1, 1);
  const reads = [() => device.native.sumSquares(x.handle), () => device.native.hasNonFinite(x.handle)];
  const times = reads.flatMap((read) => Array.from({ length: runs }, () => seconds(read)));
  x.dispose();
  return (elements * 4) / Math.min(...times) / 1e9;
}
