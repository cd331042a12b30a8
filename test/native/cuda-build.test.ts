// The addon with CUDA, where one has been built (`npm run cuda:build`): it needs no driver to load, says why there is no
// device, and its reader of compiler reports finds spills. Building here would take minutes; .ci/check-cuda does.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Native } from '../../native/index.ts';
// @ts-expect-error plain JavaScript: it runs where TypeScript cannot
import { complaints, hotNames, readReports } from '../../scripts/cuda-spills.mjs';

const root = join(import.meta.dirname, '..', '..');
const addon = join(root, 'native', 'build-cuda', 'lathe.node');

describe.runIf(existsSync(addon))('the addon with CUDA', () => {
  it('needs no library of the toolkit or the driver to load', () => {
    const dynamic = execFileSync('readelf', ['-d', addon], { encoding: 'utf8' });
    const needed = [...dynamic.matchAll(/NEEDED.*\[(.+)\]/g)].map((match) => match[1]!);
    expect(needed.length).toBeGreaterThan(0);
    expect(needed.filter((name) => /cuda|cublas|cudnn|nvidia/i.test(name))).toEqual([]);
  });

  it('opens a device or says in a sentence why it cannot', () => {
    const native = createRequire(import.meta.url)(addon) as Native;
    const info = native.cudaInfo();
    if (info.available) {
      expect(Number(info.computeCapability)).toBeGreaterThanOrEqual(8);
      expect(info.memoryTotal).toBeGreaterThan(0);
      return;
    }
    expect(info.reason).toMatch(/^no CUDA device: .*(driver|device)/);
    expect(info.code).toMatch(/^LATHE_CUDA_(NO_DRIVER|DRIVER_TOO_OLD|NO_DEVICE)$/);
    expect(() => native.tensorCreate('f32', [1], 'cuda')).toThrow(
      info.reason.replace('no CUDA device: ', ''),
    );
    // The CPU's part of it works all the same.
    const x = native.tensorCreate('f32', [3]);
    native.fill(x, 2);
    expect(native.sumSquares(x)).toBe(12);
  });
});

describe('compiler reports', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'ptxas-'));
    const report = (name: string, arch: string, spills: number) =>
      `ptxas info    : Compiling entry function '${name}' for '${arch}'\n` +
      `ptxas info    : Function properties for ${name}\n` +
      `    ${spills} bytes stack frame, ${spills} bytes spill stores, ${2 * spills} bytes spill loads\n` +
      'ptxas info    : Used 64 registers, used 1 barriers\n';
    writeFileSync(join(folder, 'a.ptxas'), report('_Z4fastv', 'sm_80', 0) + report('_Z4slowv', 'sm_90', 8));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('are read kernel by kernel, and hot kernels may not spill nor be missing', () => {
    const kernels = readReports(folder);
    expect(kernels).toEqual([
      { file: 'a.ptxas', name: '_Z4fastv', arch: 'sm_80', spills: 0, stack: 0, registers: 64 },
      { file: 'a.ptxas', name: '_Z4slowv', arch: 'sm_90', spills: 24, stack: 8, registers: 64 },
    ]);
    expect(hotNames('# comment\nfast\n\n slow \n')).toEqual(['fast', 'slow']);
    expect(complaints(kernels, ['fast'])).toEqual([]);
    expect(complaints(kernels, ['slow', 'gone'])).toEqual([
      '_Z4slowv (sm_90) spills 24 bytes',
      'no kernel\'s name contains "gone"',
    ]);
  });
});
