// The memory-bound CUDA ops as written, launches and scratch memory included, run on the CPU (test/native/cuda/
// emulation.h) against the CPU backend's own ops on fresh random inputs; and the own matrix product against float64.
// The first run compiles for about forty seconds: says nothing about speed, needs no GPU and no nvcc.
import { expect, it } from 'vitest';
import { RUN_SEED } from '../helpers/tolerance.ts';
import { check, failed } from './check-programs.ts';

const OPS = ['elementwise', 'reduce', 'random', 'embedding', 'rms_norm', 'rope', 'swiglu', 'adamw'];
const EMULATED = ['-DLATHE_EMULATION', '-x', 'c++'];
const seed = RUN_SEED;

it('the memory-bound ops do what the CPU backend does', async () => {
  const cpu = [...OPS.map((name) => `cpu/${name}.cc`), 'core/allocator.cc', 'core/thread_pool.cc'];
  const cuda = OPS.map((name) => `cuda/${name}.cu`);
  const lines = await check(
    'rows',
    [
      { flags: ['-O0', '-DLATHE_ISA=generic'], sources: [...cpu, 'rows_check.cc'] },
      { flags: ['-O0', ...EMULATED], sources: cuda },
    ],
    { seed, libraries: ['-lpthread'] },
  );
  expect(failed(lines), `LATHE_TEST_SEED=${seed}`).toEqual([]);
  expect(lines.length).toBeGreaterThan(1300);
}, 240_000);

it('the own matrix product, in every transposition', async () => {
  const lines = await check('gemm', [{ flags: ['-O1'], sources: ['gemm_check.cc'] }], { seed });
  expect(failed(lines), `LATHE_TEST_SEED=${seed}`).toEqual([]);
  expect(lines.length).toBe(40);
}, 120_000);

it('linear layers with low-rank branches, by the own kernels and with cuBLASLt', async () => {
  const names = [
    'lora_linear',
    'lora_linear_backward',
    'lora_products',
    'lora_plain',
    'gemm_own',
    'elementwise',
  ];
  const cuda = [...names.map((name) => `cuda/${name}.cu`), 'cuda/gemm.cc'];
  const lines = await check(
    'lora_linear',
    [
      { flags: ['-O1', ...EMULATED], sources: cuda },
      { flags: ['-O1'], sources: ['lora_check.cc'] },
    ],
    { seed },
  );
  expect(failed(lines), `LATHE_TEST_SEED=${seed}`).toEqual([]);
  expect(lines.length).toBe(364);
}, 240_000);

it('the device pool keeps blocks apart and joins them again; host copies know when they are stale', async () => {
  const sources = ['pool_check.cc', 'cuda/memory.cc'];
  const lines = await check('pool', [{ flags: ['-O1'], sources }], { seed });
  expect(failed(lines), `LATHE_TEST_SEED=${seed}`).toEqual([]);
  expect(lines.length).toBe(33);
}, 120_000);

it('uploads, deferred reads and recordings keep their order on a stream that falls behind', async () => {
  const sources = ['stream_check.cc', ...['memory', 'staging', 'graph'].map((name) => `cuda/${name}.cc`)];
  const lines = await check('stream', [{ flags: ['-O1'], sources }], { seed });
  expect(failed(lines), `LATHE_TEST_SEED=${seed}`).toEqual([]);
  expect(lines.length).toBe(20);
}, 120_000);

it('cuBLASLt is looked for where the python3 on PATH has its packages', async () => {
  const sources = ['paths_check.cc', 'cuda/cublaslt_paths.cc'];
  const lines = await check('paths', [{ flags: ['-O1'], sources }], { seed });
  expect(failed(lines)).toEqual([]);
  expect(lines.length).toBe(8);
}, 120_000);
