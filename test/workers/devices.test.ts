// Which GPUs train, and the processes that are kept running for them. The processes here are small scripts: what they see
// in CUDA_VISIBLE_DEVICES and how they are told to leave is what matters.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { deviceList, runPerDevice } from '../../workers/trainer/devices.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lathe-devices-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('the list of devices', () => {
  it('is empty without a setting, and what the setting names otherwise', () => {
    expect(deviceList(null, '0,1')).toEqual([]);
    expect(deviceList('0, 2', undefined)).toEqual(['0', '2']);
    expect(deviceList('GPU-3f2a-01', undefined)).toEqual(['GPU-3f2a-01']);
  });

  it('auto is what CUDA_VISIBLE_DEVICES leaves, or all of the driver', () => {
    const gpus = join(folder, 'gpus');
    expect(deviceList('auto', undefined, gpus)).toEqual([]);
    for (const bus of ['0000:1a:00.0', '0000:3b:00.0']) mkdirSync(join(gpus, bus), { recursive: true });
    expect(deviceList('auto', undefined, gpus)).toEqual(['0', '1']);
    expect(deviceList('auto', '3,5', gpus)).toEqual(['3', '5']);
    expect(deviceList('auto', '', gpus)).toEqual([]);
  });

  it.each([
    ['0,x', /'x' is not the number or the id of a GPU/],
    ['-1', /'-1' is not/],
    ['1,1', /'1' is named twice/],
    [' , ', /the list is empty/],
  ])('refuses %s', (setting, sentence) => {
    expect(() => deviceList(setting, undefined)).toThrow(sentence);
  });
});

describe('one process per device', () => {
  const options = (program: string, drain: AbortSignal, deaths: string[] = []) => ({
    ...{ program, arguments: ['--once'], env: { PATH: process.env.PATH ?? '', OUT: folder }, drain },
    onDeath: (device: string, how: string) => {
      deaths.push(`${device} ${how}`);
    },
  });

  it('sees its device alone, keeps its arguments, and is done when it ends by itself', async () => {
    const program = join(folder, 'ends.mjs');
    writeFileSync(
      program,
      `import { writeFileSync } from 'node:fs';
       const seen = process.env.CUDA_VISIBLE_DEVICES;
       writeFileSync(process.env.OUT + '/seen-' + seen, process.argv.slice(2).join(' '));`,
    );
    await runPerDevice(['0', '3'], options(program, new AbortController().signal));
    expect(
      readdirSync(folder)
        .filter((name) => name.startsWith('seen'))
        .sort(),
    ).toEqual(['seen-0', 'seen-3']);
    expect(readFileSync(join(folder, 'seen-3'), 'utf8')).toBe('--once --device 3');
  });

  it('starts one that died again, and lets the others be', async () => {
    const program = join(folder, 'dies.mjs');
    writeFileSync(
      program,
      `import { existsSync, writeFileSync } from 'node:fs';
       const mark = process.env.OUT + '/mark-' + process.env.CUDA_VISIBLE_DEVICES;
       const again = existsSync(mark) || process.env.CUDA_VISIBLE_DEVICES === '1';
       writeFileSync(mark, '');
       process.exitCode = again ? 0 : 9;`,
    );
    const deaths: string[] = [];
    await runPerDevice(['0', '1'], options(program, new AbortController().signal, deaths));
    expect(deaths).toEqual(['0 ended with code 9']);
  });

  it('is told to leave and waited for', async () => {
    const program = join(folder, 'waits.mjs');
    writeFileSync(
      program,
      `import { writeFileSync } from 'node:fs';
       const mark = (name) => writeFileSync(process.env.OUT + '/' + name, '');
       process.on('SIGTERM', () => setTimeout(() => { mark('left'); process.exit(0); }, 50));
       setInterval(() => {}, 1000);
       mark('ready');`,
    );
    const drain = new AbortController();
    const running = runPerDevice(['0'], options(program, drain.signal));
    while (!readdirSync(folder).includes('ready')) await sleep(20);
    drain.abort();
    await running;
    expect(readdirSync(folder)).toContain('left');
  });
});
