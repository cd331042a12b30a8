/** Tensors and timing of kernel benchmarks: random data, and calls recorded once and replayed where the device can. */
import type { Device } from '../workers/engine/device.ts';
import { Tensor } from '../workers/engine/tensor.ts';
import { timed } from './gpu-check/device-report.ts';
import { median } from './options.ts';

const RUNS = 5;

/** Tensors of one measurement; everything made here is freed by `close`. */
export class KernelBench {
  readonly device: Device;
  #owned: Tensor[] = [];
  #stream = 0;

  constructor(device: Device) {
    this.device = device;
  }

  empty(shape: number[], dtype: 'f32' | 'bf16' | 'i32' = 'bf16'): Tensor {
    const tensor = Tensor.empty(this.device, shape, dtype);
    this.#owned.push(tensor);
    return tensor;
  }

  /** Normal values: kernels run faster on zeros than on data. */
  random(shape: number[], dtype: 'f32' | 'bf16' = 'bf16', deviation = 1): Tensor {
    const tensor = this.empty(shape, dtype);
    this.device.native.randomNormal(tensor.handle, 0, deviation, 1, this.#stream++);
    return tensor;
  }

  ints(values: ArrayLike<number>, shape: number[] = [values.length]): Tensor {
    const tensor = Tensor.fromInt32(this.device, Int32Array.from(values), shape);
    this.#owned.push(tensor);
    return tensor;
  }

  floats(values: ArrayLike<number>, shape: number[]): Tensor {
    const tensor = Tensor.fromFloat32(this.device, Float32Array.from(values), shape);
    this.#owned.push(tensor);
    return tensor;
  }

  /** Median seconds of one call of `work`, of `times` calls in a row. */
  seconds(work: (i: number) => void, times = 1): number {
    const { native, kind } = this.device;
    const all = () => {
      for (let i = 0; i < times; i++) work(i);
    };
    all();
    if (kind === 'cpu') return median(Array.from({ length: RUNS }, () => timed(this.device, all, 1))) / times;
    native.captureBegin();
    let graph: object;
    try {
      all();
    } finally {
      graph = native.captureEnd();
    }
    const replay = () => native.graphLaunch(graph);
    replay();
    const found = median(Array.from({ length: RUNS }, () => timed(this.device, replay, 3))) / times;
    native.graphFree(graph);
    return found;
  }

  close(): void {
    for (const tensor of this.#owned.splice(0)) tensor.dispose();
  }
}
