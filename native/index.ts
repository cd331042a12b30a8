// The typed front of the native addon: finds it (native/build-cuda/lathe.node where that fits, else native/build)
// and types what is no tensor op; those are in ops.ts. It reads no environment and imports nothing else of ours.
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { Handle, NativeOps } from './ops.ts';

export type { Handle } from './ops.ts';

export type NativeDtype = 'f32' | 'bf16' | 'i32' | 'u8';

/** Errors carry one of these as `code`; the message is "op: argument: what was expected". */
export type NativeErrorCode =
  | 'LATHE_INVALID_ARGUMENT'
  | 'LATHE_OUT_OF_MEMORY'
  | 'LATHE_IO'
  | 'LATHE_INTERNAL'
  | CudaErrorCode;

/** LATHE_CUDA_LOST: the device is unusable for this process (ECC, a fault in a kernel); only a new one can go on. */
export type CudaErrorCode =
  | 'LATHE_CUDA_NOT_BUILT'
  | 'LATHE_CUDA_NO_DRIVER'
  | 'LATHE_CUDA_DRIVER_TOO_OLD'
  | 'LATHE_CUDA_NO_DEVICE'
  | 'LATHE_CUDA_NO_CUBLAS'
  | 'LATHE_CUDA_ERROR'
  | 'LATHE_CUDA_LOST';

/** What cudaInfo() says of a device that can be used, or why there is none. */
export type CudaInfo =
  | { available: false; code: CudaErrorCode; reason: string }
  | {
      available: true;
      name: string;
      /** E.g. '9.0'. */
      computeCapability: string;
      /** CUDA versions, e.g. '13.0'. */
      driver: string;
      runtime: string;
      /** 'cuBLASLt …' or 'own kernels: why'. */
      blas: string;
      multiprocessors: number;
      memoryTotal: number;
      memoryFree: number;
      bytesInUse: number;
      bytesPeak: number;
      bytesPooled: number;
    };

export interface CudaOptions {
  /** Taken from the driver at once, so that no step asks it for memory. */
  arenaBytes?: number;
  /** Limit on what is taken from the driver; 0 = none. */
  memoryLimitBytes?: number;
  /** auto (default): cuBLASLt where it is found; cublaslt: LATHE_CUDA_NO_CUBLAS without it; own: never. */
  blas?: 'auto' | 'cublaslt' | 'own';
}

/** A copy from the device that arrives later; opaque. */
export type DeferredHandle = object;

/** Recorded ops; opaque. */
export type GraphHandle = object;

export type NativeDevice = 'cpu' | 'cuda';

export interface NativeInfo {
  /** Instruction set in use: amx, avx512bf16, avx512, avx2 or generic. */
  isa: string;
  /** Those this CPU can run, best first. */
  isas: string[];
  threads: number;
  bytesInUse: number;
  bytesPeak: number;
  /** Freed memory kept for reuse; trim() returns it. */
  bytesPooled: number;
}

export interface NativeOptions {
  isa?: string;
  threads?: number;
  /** Limit on tensors and scratch space; beyond it LATHE_OUT_OF_MEMORY. 0 = none. */
  memoryLimitBytes?: number;
}

export interface Native extends NativeOps {
  // runtime, process-wide
  info(): NativeInfo;
  configure(options: NativeOptions): void;
  trim(): void;

  // memory
  /** Uninitialised; 1 to 4 dims. On the CPU unless said. */
  tensorCreate(dtype: NativeDtype, dims: readonly number[], device?: NativeDevice): Handle;
  /** Shares the storage and keeps it alive; checked against the base's bounds and the type's alignment. */
  tensorView(base: Handle, byteOffset: number, dims: readonly number[], dtype?: NativeDtype): Handle;
  /** Idempotent. Any other use of the handle afterwards is an Error; views of it stay valid. */
  tensorFree(h: Handle): void;
  tensorInfo(h: Handle): { dtype: NativeDtype; dims: number[]; bytes: number };
  tensorWrite(h: Handle, src: ArrayBufferView, byteOffset?: number): void;
  tensorRead(h: Handle, dst: ArrayBufferView, byteOffset?: number): void;
  /** u8 [size], read-only mapping; an op that would write to it throws. */
  mapFile(path: string): Handle;

  // the CUDA device: opened by its first use
  /** Never throws for a missing device. */
  cudaInfo(): CudaInfo;
  cudaConfigure(options: CudaOptions): void;
  /** Waits for everything asked of the CUDA device so far. */
  synchronize(): void;
  /** Copies the tensor as it is after the work asked for so far; the host does not wait. On the CPU: at once. */
  readLater(h: Handle): DeferredHandle;
  deferredReady(deferred: DeferredHandle): boolean;
  /** Waits for the copy; once per deferred read. */
  deferredTake(deferred: DeferredHandle, dst: ArrayBufferView): void;
  /**
   * From here to captureEnd() this thread's ops on tensors of the device (CUDA unless said) are recorded and not run; its
   * tensors cannot be read or written then.
   */
  captureBegin(device?: NativeDevice): void;
  /** Must follow captureBegin() also when an op threw. The tensors that the ops used live as long as the graph. */
  captureEnd(): GraphHandle;
  /** Runs the recorded ops on what their tensors hold now. */
  graphLaunch(graph: GraphHandle): void;
  graphFree(graph: GraphHandle): void;

  // lists of tensors: see core/list_ops.h
  sumSquaresInto(sum: Handle, xs: readonly Handle[]): void;
  /** `state`: u8 [24] of f64 sum of squares, f64 norm, i64 applied steps. */
  adamwList(
    state: Handle,
    p: readonly Handle[],
    m: readonly Handle[],
    v: readonly Handle[],
    g: readonly Handle[],
    rounded: readonly Handle[],
    lr: number,
    beta1: number,
    beta2: number,
    eps: number,
    weightDecay: number,
    decayed: number,
    maxNorm: number,
  ): void;
}

let loaded: Native | null = null;

/** The first line of a build's stamp: the hash of the sources that both addons are made of. */
function stampOf(folder: string): string | null {
  const path = join(import.meta.dirname, folder, 'sources.sha256');
  return existsSync(path) ? (readFileSync(path, 'utf8').split('\n')[0] ?? null) : null;
}

/** The addon with CUDA where one is built, unless the plain addon has been built since from other sources. */
function addonPath(): string | null {
  const [plain, cuda] = ['build', 'build-cuda'].map((folder) =>
    join(import.meta.dirname, folder, 'lathe.node'),
  ) as [string, string];
  const fits = !existsSync(plain) || stampOf('build-cuda') === stampOf('build');
  if (existsSync(cuda) && fits) return cuda;
  return existsSync(plain) ? plain : null;
}

/** The addon, loaded once per thread. Throws a sentence that names the build command when it is missing. */
export function loadNative(): Native {
  if (loaded) return loaded;
  const path = addonPath();
  if (path === null) throw new Error('The native addon is not built: run `npm run build:native`.');
  loaded = createRequire(import.meta.url)(path) as Native;
  return loaded;
}
