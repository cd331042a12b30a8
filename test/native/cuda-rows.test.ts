// The memory-bound CUDA ops as written, launches and scratch memory included, run on the CPU (test/native/cuda/
// emulation.h) against the CPU backend's own ops on fresh random inputs; and the own matrix product against float64.
// Compiles for about fifteen seconds: says nothing about speed, needs no GPU and no nvcc.
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, it } from 'vitest';
import { RUN_SEED } from '../helpers/tolerance.ts';

const folder = mkdtempSync(join(tmpdir(), 'lathe-rows-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = promisify(execFile);
const native = join(import.meta.dirname, '..', '..', 'native');
const checks = join(import.meta.dirname, 'cuda');
const OPS = ['elementwise', 'reduce', 'random', 'embedding', 'rms_norm', 'rope', 'swiglu', 'adamw'];
const FLAGS = ['-std=c++20', '-O0', '-w', '-ffp-contract=off', '-fno-strict-aliasing', '-I', checks];

/** Compiles into a folder of its own: both backends have files of the same names. */
async function compile(name: string, flags: string[], sources: string[]): Promise<string[]> {
  const cwd = join(folder, name);
  mkdirSync(cwd);
  await run('g++', [...FLAGS, ...flags, '-c', ...sources], { cwd });
  return readdirSync(cwd).map((object) => join(cwd, object));
}

/** The lines of a check program; every one begins with ok or FAIL. */
async function results(program: string): Promise<string[]> {
  const { stdout } = await run(program, [String(RUN_SEED)]).catch((error) => error as { stdout: string });
  return stdout.trim().split('\n');
}

const failed = (lines: string[]) => lines.filter((line) => !line.startsWith('ok'));

it('the memory-bound ops do what the CPU backend does', async () => {
  const core = ['allocator', 'thread_pool'].map((name) => join(native, 'core', `${name}.cc`));
  const cpu = OPS.map((name) => join(native, 'cpu', `${name}.cc`));
  const cuda = OPS.map((name) => join(native, 'cuda', `${name}.cu`));
  const check = join(checks, 'rows_check.cc');
  const objects = await Promise.all([
    compile('cpu', ['-DLATHE_ISA=generic'], [...cpu, ...core, check]),
    compile('cuda', ['-DLATHE_EMULATION', '-x', 'c++'], cuda),
  ]);
  const program = join(folder, 'rows');
  await run('g++', [...objects.flat(), '-o', program, '-lpthread']);
  const lines = await results(program);
  expect(failed(lines), `LATHE_TEST_SEED=${RUN_SEED}`).toEqual([]);
  expect(lines.length).toBeGreaterThan(1300);
}, 240_000);

it('the own matrix product, in every transposition', async () => {
  const program = join(folder, 'gemm');
  await run('g++', [...FLAGS, '-O1', join(checks, 'gemm_check.cc'), '-o', program]);
  const lines = await results(program);
  expect(failed(lines), `LATHE_TEST_SEED=${RUN_SEED}`).toEqual([]);
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
  const cuda = [...names.map((name) => join(native, 'cuda', `${name}.cu`)), join(native, 'cuda', 'gemm.cc')];
  const [objects] = await Promise.all([
    compile('lora', ['-O1', '-DLATHE_EMULATION', '-x', 'c++'], cuda),
    compile('lora_check', ['-O1'], [join(checks, 'lora_check.cc')]),
  ]);
  const program = join(folder, 'lora_linear');
  await run('g++', [...objects, join(folder, 'lora_check', 'lora_check.o'), '-o', program]);
  const lines = await results(program);
  expect(failed(lines), `LATHE_TEST_SEED=${RUN_SEED}`).toEqual([]);
  expect(lines.length).toBe(364);
}, 240_000);

it('the device pool keeps blocks apart and joins them again; host copies know when they are stale', async () => {
  const program = join(folder, 'pool');
  const sources = [join(checks, 'pool_check.cc'), join(native, 'cuda', 'memory.cc')];
  await run('g++', [...FLAGS, '-O1', ...sources, '-o', program]);
  const lines = await results(program);
  expect(failed(lines), `LATHE_TEST_SEED=${RUN_SEED}`).toEqual([]);
  expect(lines.length).toBe(33);
}, 120_000);

it('cuBLASLt is looked for where the python3 on PATH has its packages', async () => {
  const program = join(folder, 'paths');
  const sources = [join(checks, 'paths_check.cc'), join(native, 'cuda', 'cublaslt_paths.cc')];
  await run('g++', [...FLAGS, '-O1', ...sources, '-o', program]);
  const lines = await results(program);
  expect(failed(lines)).toEqual([]);
  expect(lines.length).toBe(8);
}, 120_000);
