/**
 * Opens the compute device; the only module that loads the native addon. It knows memory figures and thread counts,
 * never models or tensors' meaning.
 */
import { type CudaErrorCode, loadNative, type Native } from '../../native/index.ts';
import type { FloatDType } from './tensor.ts';

export type { Handle, Native } from '../../native/index.ts';

export type DeviceKind = 'cpu' | 'cuda';

export interface DeviceOptions {
  /** `auto` takes CUDA where the build has it and a device answers, else the CPU. */
  kind?: 'auto' | DeviceKind;
  /** Threads of the compute pool; the pool is shared by the whole process. */
  threads?: number;
  /** CPU instruction set to force (`amx`, `avx512bf16`, `avx512`, `avx2`, `generic`). */
  isa?: string;
  /** Allocations beyond this fail with code `LATHE_OUT_OF_MEMORY`. */
  memoryLimitBytes?: number;
  /** CUDA: which library multiplies matrices; `auto` takes cuBLASLt where it is found. */
  blas?: 'auto' | 'cublaslt' | 'own';
}

/** Why a device cannot be opened. `code` says whether the build, the driver or the machine lacks something. */
export class DeviceError extends Error {
  override name = 'DeviceError';
  readonly code: CudaErrorCode;

  constructor(code: CudaErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** Whether only a new process can go on after this error: the device itself has failed. */
export function isDeviceLost(error: unknown): boolean {
  return error instanceof Error && (error as { code?: unknown }).code === 'LATHE_CUDA_LOST';
}

/** A place where tensors live and ops run. Devices are cheap; all of them share the addon's pool and thread pool. */
export class Device {
  readonly kind: DeviceKind;
  readonly native: Native;

  constructor(kind: DeviceKind, native: Native) {
    this.kind = kind;
    this.native = native;
  }

  /** Human-readable name, e.g. `cpu (avx512bf16, 2 threads)` or `cuda (NVIDIA H100 80GB HBM3, cuBLASLt 13.1)`. */
  get name(): string {
    if (this.kind === 'cuda') {
      const { name, blas } = this.#cuda();
      return `cuda (${name}, ${blas.replace(/[(:].*$/, '').trim()})`;
    }
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
    if (this.kind === 'cuda') {
      const { bytesInUse: inUse, bytesPeak: peak } = this.#cuda();
      return { inUse, peak };
    }
    const { bytesInUse, bytesPeak } = this.native.info();
    return { inUse: bytesInUse, peak: bytesPeak };
  }

  /** Whether ops only ask for work that runs later, so that waiting for a result costs time: see Deferred. */
  get worksAhead(): boolean {
    return this.kind === 'cuda';
  }

  /** Bytes that tensors can take here in all: free now, or already taken from the driver. Null on the CPU. */
  capacity(): number | null {
    if (this.kind === 'cpu') return null;
    const { memoryFree, bytesInUse, bytesPooled } = this.#cuda();
    return memoryFree + bytesInUse + bytesPooled;
  }

  /** Takes memory for `bytes` of tensors at once, so that no step asks the driver. Nothing happens on the CPU. */
  reserve(bytes: number): void {
    if (this.kind === 'cuda') this.native.cudaConfigure({ arenaBytes: Math.floor(bytes) });
  }

  /** Returns pooled, unused memory to the system. */
  trim(): void {
    this.native.trim();
  }

  #cuda() {
    const info = this.native.cudaInfo();
    if (!info.available) throw new DeviceError(info.code, info.reason);
    return info;
  }
}

/**
 * Opens a device.
 * @throws Error when the addon is missing (with the command that builds it); DeviceError when `cuda` is asked for and
 * cannot be opened; code LATHE_CUDA_NO_CUBLAS when `blas` demands a library that is not there
 */
export function openDevice(options: DeviceOptions = {}): Device {
  const { kind = 'auto', threads, isa, memoryLimitBytes, blas } = options;
  const native = loadNative();
  if (threads !== undefined || isa !== undefined) native.configure({ threads, isa });
  if (kind !== 'cpu') {
    const info = native.cudaInfo();
    if (info.available) {
      if (memoryLimitBytes !== undefined || blas !== undefined)
        native.cudaConfigure({ memoryLimitBytes, blas });
      return new Device('cuda', native);
    }
    if (kind === 'cuda') throw new DeviceError(info.code, info.reason);
  }
  if (memoryLimitBytes !== undefined) native.configure({ memoryLimitBytes });
  return new Device('cpu', native);
}
