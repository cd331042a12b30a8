import { fork } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openDiskStorage } from '../../src/storage/disk.ts';
import {
  commitFolder,
  digestOf,
  MANIFEST,
  modelFilesOf,
  verifyFolder,
} from '../../workers/trainer/checkpoint.ts';
import { Failpoints, parseFailpoint } from '../../workers/trainer/failpoints.ts';
import { fetchNewestCheckpoint } from '../../workers/trainer/inputs.ts';

const NONE = new Failpoints([], 1);
let root: string;
beforeEach(() => {
  root = mkdtempSync(path.join(tmpdir(), 'lathe-checkpoint-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const fill = (text: string) => async (dir: string) => {
  writeFileSync(path.join(dir, 'adapter_model.safetensors'), text);
  writeFileSync(path.join(dir, 'trainer_state.json'), '{}');
};

describe('commitFolder', () => {
  it('writes the files and a manifest that verifies', async () => {
    const dir = path.join(root, 'ckpt-3');
    const manifest = await commitFolder(dir, 3, fill('weights'), NONE);
    expect(manifest).toMatchObject({ format_version: 1, step: 3 });
    expect(manifest.files.map((f) => [f.name, f.bytes])).toEqual([
      ['adapter_model.safetensors', 7],
      ['trainer_state.json', 2],
    ]);
    expect(await verifyFolder(dir)).toEqual(manifest);
    expect(readdirSync(root)).toEqual(['ckpt-3']);
  });

  it('leaves nothing when a file cannot be written', async () => {
    const broken = commitFolder(
      path.join(root, 'ckpt-3'),
      3,
      async () => Promise.reject(new Error('no space')),
      NONE,
    );
    await expect(broken).rejects.toThrow('no space');
    expect(readdirSync(root)).toEqual([]);
  });

  it.each(['after_files', 'before_rename', 'after_rename'])(
    'killed %s: the folder is whole or not there',
    async (where) => {
      const script = path.join(import.meta.dirname, 'commit-and-die.ts');
      const child = fork(script, [root, `checkpoint.3.${where}=kill`], { stdio: 'ignore' });
      const [, signal] = await once(child, 'exit');
      expect(signal).toBe('SIGKILL');
      expect(existsSync(path.join(root, 'ckpt-3'))).toBe(where === 'after_rename');
      if (where === 'after_rename') await verifyFolder(path.join(root, 'ckpt-3'));
      // What a killed attempt left does not stand in the way of the next.
      rmSync(path.join(root, 'ckpt-3'), { recursive: true, force: true });
      await commitFolder(path.join(root, 'ckpt-3'), 3, fill('again'), NONE);
      await verifyFolder(path.join(root, 'ckpt-3'));
    },
  );
});

describe('verifyFolder', () => {
  const damage: [string, (dir: string) => void, string][] = [
    [
      'a flipped byte',
      (d) => writeFileSync(path.join(d, 'adapter_model.safetensors'), 'weightz'),
      'adapter_model.safetensors does not match its sha256',
    ],
    [
      'a cut file',
      (d) => truncateSync(path.join(d, 'adapter_model.safetensors'), 3),
      'adapter_model.safetensors has 3 bytes, not 7',
    ],
    ['a missing file', (d) => rmSync(path.join(d, 'trainer_state.json')), 'trainer_state.json is missing'],
    ['no manifest', (d) => rmSync(path.join(d, MANIFEST)), 'manifest.json is missing'],
    ['half a manifest', (d) => truncateSync(path.join(d, MANIFEST), 40), 'manifest.json is not JSON'],
    [
      'a manifest that points elsewhere',
      (d) => {
        const manifest = JSON.parse(readFileSync(path.join(d, MANIFEST), 'utf8'));
        manifest.files[0].name = '../../etc/passwd';
        writeFileSync(path.join(d, MANIFEST), JSON.stringify(manifest));
      },
      'manifest.json is not valid',
    ],
    [
      'a later format',
      (d) => writeFileSync(path.join(d, MANIFEST), JSON.stringify({ format_version: 2, step: 3, files: [] })),
      'manifest.json is not valid',
    ],
  ];
  it.each(damage)('refuses %s', async (_, spoil, reason) => {
    const dir = path.join(root, 'ckpt-3');
    await commitFolder(dir, 3, fill('weights'), NONE);
    spoil(dir);
    await expect(verifyFolder(dir)).rejects.toMatchObject({
      name: 'CheckpointDamaged',
      message: expect.stringContaining(reason),
    });
  });
});

describe('digests', () => {
  it('name the model files, whatever their order, and leave the training state out', () => {
    const file = (name: string, sha256: string) => ({ name, bytes: 1, sha256 });
    const files = [
      file('optimizer.safetensors', 'x'),
      file('b', '1'),
      file('a', '2'),
      file('step_metrics.csv', 'y'),
    ];
    expect(modelFilesOf(files).map((f) => f.name)).toEqual(['a', 'b']);
    expect(digestOf([file('a', '2'), file('b', '1')])).toBe(digestOf([file('b', '1'), file('a', '2')]));
    expect(digestOf([file('a', '2'), file('b', '1')])).not.toBe(digestOf([file('a', '1'), file('b', '2')]));
  });
});

describe('fetchNewestCheckpoint', () => {
  const upload = async (steps: number[]) => {
    const storage = await openDiskStorage(path.join(root, 'storage'));
    const rows = [];
    for (const step of steps) {
      const dir = path.join(root, `ckpt-${step}`);
      const { files } = await commitFolder(dir, step, fill(`weights ${step}`), NONE);
      const storagePrefix = `p/ckpt-${step}`;
      for (const name of [...files.map((f) => f.name), MANIFEST]) {
        await storage.put(`${storagePrefix}/${name}`, readFileSync(path.join(dir, name)));
      }
      rows.push({ step, storagePrefix, files });
    }
    return { storage, rows };
  };

  it('takes the newest one that is whole', async () => {
    const { storage, rows } = await upload([8, 6, 4]);
    expect((await fetchNewestCheckpoint(storage, rows, root)).chosen?.row.step).toBe(8);
    await storage.put('p/ckpt-8/adapter_model.safetensors', Buffer.from('weightZ 8'));
    await storage.delete('p/ckpt-6/manifest.json');
    const { chosen, damaged } = await fetchNewestCheckpoint(storage, rows, root);
    expect(chosen?.row.step).toBe(4);
    expect(readFileSync(path.join(chosen!.dir, 'adapter_model.safetensors'), 'utf8')).toBe('weights 4');
    expect(damaged.map((d) => [d.row.step, d.reason])).toEqual([
      [8, 'adapter_model.safetensors in storage is not what was stored there'],
      [6, 'manifest.json is not in storage'],
    ]);
  });

  it('starts from the beginning when there is none', async () => {
    const { storage } = await upload([]);
    expect(await fetchNewestCheckpoint(storage, [], root)).toEqual({ chosen: null, damaged: [] });
  });
});

describe('failpoints', () => {
  it('reads name, epoch and action, and refuses everything else', () => {
    expect(parseFailpoint('child.step.3@2=kill')).toEqual({ name: 'child.step.3', epoch: 2, action: 'kill' });
    expect(parseFailpoint('publish.after_commit=hang')).toEqual({
      name: 'publish.after_commit',
      epoch: null,
      action: 'hang',
    });
    for (const bad of ['', 'a', 'a=explode', 'A=kill', 'a@x=kill'])
      expect(() => parseFailpoint(bad)).toThrow('--failpoint');
  });

  it('are armed in their epoch only, and never by default', () => {
    const point = parseFailpoint('here@2=throw');
    expect(() => new Failpoints([point], 1).hit('here')).not.toThrow();
    expect(() => new Failpoints([point], 2).hit('there')).not.toThrow();
    expect(() => new Failpoints([point], 2).hit('here')).toThrow('failpoint here');
    expect(() => new Failpoints([], 2).hit('here')).not.toThrow();
  });
});
