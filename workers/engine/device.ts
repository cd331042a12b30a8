/**
 * Opens the compute device; the only module that loads the native addon. It knows memory figures and thread counts,
 * never models or tensors' meaning.
 */
import { loadNative, type Native } from '../../native/index.ts';
import type { FloatDType } from './tensor.ts';

export type { Handle, Native } from '../../native/index.ts';

export type DeviceKind = 'cpu' | 'cuda';

export interface DeviceOptions {
  /** `auto` takes the best device that this build supports. */
  kind?: 'auto' | DeviceKind;
  /** Threads of the compute pool; the pool is shared by the whole process. */
  threads?: number;
  /** CPU instruction set to force (`avx512bf16`, `avx512`, `avx2`, `generic`). */
  isa?: string;
  /** Allocations beyond this fail with code `LATHE_OUT_OF_MEMORY`. */
  memoryLimitBytes?: number;
}

/** A place where tensors live and ops run. Devices are cheap; all of them share the addon's pool and thread pool. */
export class Device {
  readonly kind: DeviceKind;
  readonly native: Native;

  constructor(kind: DeviceKind, native: Native) {
    this.kind = kind;
    this.native = native;
  }

  /** Human-readable name, e.g. `cpu (avx512bf16, 2 threads)`. */
  get name(): string {
    const { isa, threads } = this.native.info();
    return `${this.kind} (${isa}, ${threads} thread${threads === 1 ? '' : 's'})`;
  }

  get threads(): number {
    return this.native.info().threads;
  }

  /**
   * The dtype of activations beside weights of `weights`. f32 on the CPU, whose arithmetic is f32 anyway: rounding
   * every activation to bf16 would cost up to 5 % error in a LoRA gradient and win little time.
   */
  activationDtype(weights: FloatDType): FloatDType {
    return this.kind === 'cuda' ? weights : 'f32';
  }

  /** Bytes of tensors alive now, and the highest value so far. Pooled but unused memory is not counted. */
  memory(): { inUse: number; peak: number } {
    const { bytesInUse, bytesPeak } = this.native.info();
    return { inUse: bytesInUse, peak: bytesPeak };
  }

  /** Returns pooled, unused memory to the system. */
  trim(): void {
    this.native.trim();
  }
}

/**
 * Opens a device.
 * @throws when the addon is missing (with the command that builds it), or when `cuda` is asked for and not built in.
 */
export function openDevice(options: DeviceOptions = {}): Device {
  const { kind = 'auto', threads, isa, memoryLimitBytes } = options;
  if (kind === 'cuda')
    throw new Error('device "cuda" was asked for, but this build of the addon has no CUDA');
  const native = loadNative();
  if (threads !== undefined || isa !== undefined || memoryLimitBytes !== undefined) {
    native.configure({ threads, isa, memoryLimitBytes });
  }
  return new Device('cpu', native);
}
