/**
 * The factors A and B of low-rank branches as tensors: their names, how they begin, how they are read from a file, and
 * how those of linears that read one x are laid into one tensor. Knows no adapter.
 */
import type { Device } from '../device.ts';
import { SafetensorsError, type SafetensorsFile } from '../io/safetensors.ts';
import type { Linear } from '../models/weights.ts';
import type { LowRankBranch } from '../ops/linear.ts';
import { streamOf } from '../rng.ts';
import { keep, scope, Tensor } from '../tensor.ts';

/** PEFT's name of a factor. */
export function keyOf(layer: Linear, which: 'A' | 'B'): string {
  return `base_model.model.${layer.name}.lora_${which}.weight`;
}

type Init = boolean | 'gaussian';

/** Uniform in ±1/√in (Kaiming with a = √5), or normal with deviation 1/r; drawn by Philox from (seed, name). */
export function initialiseA(device: Device, layer: Linear, r: number, init: Init, seed: number): Tensor {
  const a = keep(Tensor.empty(device, [r, layer.inFeatures]));
  const stream = streamOf(keyOf(layer, 'A'));
  const bound = 1 / Math.sqrt(layer.inFeatures);
  if (init === 'gaussian') device.native.randomNormal(a.handle, 0, 1 / r, seed, stream);
  else device.native.randomUniform(a.handle, -bound, bound, seed, stream);
  return a;
}

/** Zero, or with `false` uniform in ±1/√r. */
export function initialiseB(device: Device, layer: Linear, r: number, init: Init, seed: number): Tensor {
  const shape = [layer.outFeatures, r];
  if (init !== false) return keep(Tensor.zeros(device, shape));
  const b = keep(Tensor.empty(device, shape));
  const bound = 1 / Math.sqrt(r);
  device.native.randomUniform(b.handle, -bound, bound, seed, streamOf(keyOf(layer, 'B')));
  return b;
}

/** A factor as own f32 memory, checked for shape and finite values. */
export function loadFactor(
  device: Device,
  file: SafetensorsFile,
  key: string,
  shape: readonly number[],
): Tensor {
  const stored = file.tensors.get(key);
  if (stored === undefined) throw new SafetensorsError(file.path, `lacks ${key}`);
  if (stored.shape.join() !== shape.join()) {
    throw new SafetensorsError(file.path, `${key} has shape [${stored.shape}], the model needs [${shape}]`);
  }
  return scope(() => {
    const factor = file.load(device, key, 'f32');
    if (device.native.hasNonFinite(factor.handle))
      throw new SafetensorsError(file.path, `${key} is not finite`);
    return keep(stored.dtype === 'F32' ? factor.clone() : factor);
  });
}

/** Moves the A of `branches` into one tensor; theirs become rows of it. */
export function stack(branches: readonly LowRankBranch[]): Tensor {
  const [first] = branches;
  const total = branches.reduce((sum, { a }) => sum + a.dim(0), 0);
  const whole = keep(Tensor.empty(first!.a.device, [total, first!.a.dim(1)]));
  whole.requiresGrad = true;
  let start = 0;
  for (const branch of branches) {
    const { a } = branch;
    const rows = scope(() => keep(whole.rows(start, start + a.dim(0))));
    a.device.native.copy(rows.handle, a.handle);
    rows.rowsOf = { whole, start };
    branch.a = rows;
    start += a.dim(0);
    a.dispose();
  }
  return whole;
}
