/**
 * Adapters out and in, with a real worker: a model trained here is downloaded, imported again and answers the same; one
 * that PEFT wrote is taken; a merged export computes what base and adapter compute.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { describe, expect, it, vi } from 'vitest';
import { tunedModels } from '../../src/db/schema-jobs.ts';
import { modelOperations } from '../../src/db/schema-uploads.ts';
import { sweepOnce } from '../../src/domain/sweep/run.ts';
import { newId } from '../../src/ids.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { type Model, openModel } from '../../workers/engine/models/index.ts';
import { LoraAdapter, type LoraConfig } from '../../workers/engine/peft/lora.ts';
import { caseFolder } from '../golden/read.ts';
import { useApp } from '../helpers/app.ts';
import { packed, readTensors, unpack } from './adapter-files.ts';
import { addBase, bringIn, bytesOf, CONFIG, type FormFile, WEIGHTS } from './adapter-service.ts';
import { useTrainedAdapter } from './trained-adapter.ts';

// Generous: a training, a worker and a process for every import, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 180_000 });

const t = useApp({ maxAdapterBytes: 4 * 1024 * 1024, maxExports: 2 });
const { there, greedy, both } = useTrainedAdapter(t);
const stored = async (part: string) => (await t.stored()).filter((file) => file.includes(part));

describe('a download', () => {
  it('is the PEFT folder in a tar that every tar reads', async () => {
    const { status, headers, bytes } = await bytesOf(
      t,
      `/v1/fine_tuning/adapters/${encodeURIComponent(there.trained)}`,
    );
    expect(status).toBe(200);
    expect(Number(headers.get('content-length'))).toBe(bytes.length);
    expect(headers.get('content-disposition')).toMatch(
      /^attachment; filename="ft-tiny-acme-mine-\w{8}\.tar"$/,
    );
    expect(there.adapter.files).toEqual(['README.md', CONFIG, WEIGHTS]);
    const [row] = await t.database.db.select().from(tunedModels).where(eq(tunedModels.id, there.trained));
    expect(there.adapter.read('README.md').toString()).toContain(row!.jobId!);
    expect(there.adapter.read('README.md').toString()).toContain('base_model: "tiny"');
    expect(JSON.parse(there.adapter.read(CONFIG).toString())).toMatchObject({
      peft_type: 'LORA',
      base_model_name_or_path: 'tiny',
    });
    const alone = await bytesOf(t, `/v1/fine_tuning/adapters/${there.trained}?format=safetensors`);
    expect(alone.bytes.equals(there.adapter.read(WEIGHTS))).toBe(true);
    expect(alone.headers.get('content-disposition')).toMatch(/\.safetensors"$/);
  });

  it('can be continued anywhere: ranges together are the whole', async () => {
    const url = `/v1/fine_tuning/adapters/${there.trained}`;
    const whole = await bytesOf(t, url);
    const etag = whole.headers.get('etag')!;
    const cuts = [0, 1, 511, 512, 513, 1700, 4096, whole.bytes.length];
    const pieces: Buffer[] = [];
    for (let i = 0; i + 1 < cuts.length; i++) {
      const range = `bytes=${cuts[i]}-${cuts[i + 1]! - 1}`;
      const piece = await bytesOf(t, url, { range, 'if-range': etag });
      expect(piece.status).toBe(206);
      expect(piece.headers.get('content-range')).toBe(`${range.replace('=', ' ')}/${whole.bytes.length}`);
      pieces.push(piece.bytes);
    }
    expect(Buffer.concat(pieces).equals(whole.bytes)).toBe(true);
    expect((await bytesOf(t, url, { range: 'bytes=-100' })).bytes.equals(whole.bytes.subarray(-100))).toBe(
      true,
    );
    expect((await bytesOf(t, url, { range: 'bytes=700-' })).bytes.equals(whole.bytes.subarray(700))).toBe(
      true,
    );
    for (const range of ['bytes=5-2', 'bytes=0-1,4-5', 'items=0-1', 'bytes=-'])
      expect((await bytesOf(t, url, { range })).status).toBe(200);
    expect((await bytesOf(t, url, { range: 'bytes=0-1', 'if-range': '"other"' })).status).toBe(200);
    const behind = await bytesOf(t, url, { range: `bytes=${whole.bytes.length}-` });
    expect(behind.status).toBe(416);
    expect(behind.headers.get('content-range')).toBe(`bytes */${whole.bytes.length}`);
  });

  it('is refused for what has no adapter', async () => {
    const answer = await t.call('GET', '/v1/fine_tuning/adapters/tiny');
    expect([answer.status, answer.json.error.code]).toEqual([400, 'no_adapter']);
    const foreign = await t.call('GET', `/v1/fine_tuning/adapters/${there.trained}`, { key: t.bob.key });
    expect([foreign.status, foreign.json.error.code]).toEqual([404, 'model_not_found']);
  });
});

describe('an import', () => {
  it('answers as the model it was downloaded from', async () => {
    const before = await greedy(there.trained);
    expect(before).not.toBe(await greedy('tiny'));
    const { bytes } = await bytesOf(t, `/v1/fine_tuning/adapters/${there.trained}`);
    const model = await bringIn(t, [['adapter.tar', bytes]], { suffix: 'moved here!' });
    expect(model.status, model.text).toBe(200);
    expect(model.json).toMatchObject({ object: 'model', owned_by: 'acme' });
    expect(model.json.id).toMatch(/^ft:tiny:acme:moved-here:\w{8}$/);
    expect(await greedy(model.json.id)).toBe(before);
    const again = unpack((await bytesOf(t, `/v1/fine_tuning/adapters/${model.json.id}`)).bytes);
    for (const file of [CONFIG, WEIGHTS])
      expect(again.read(file).equals(there.adapter.read(file)), file).toBe(true);
    expect(again.read('README.md').toString()).toContain('an import');
    expect((await t.call('GET', '/v1/models')).text).toContain(model.json.id);
    await vi.waitFor(async () => expect(await stored('/imports/')).toEqual([]), { timeout: 10_000 });
    // As two files, and in archives of the system's tar in every dialect it speaks.
    for (const form of [
      both(),
      ...['ustar', 'gnu', 'posix'].map((format): FormFile[] => [
        ['a.tar', packed(there.adapter.folder, `--format=${format}`)],
      ]),
    ])
      expect((await bringIn(t, form)).status).toBe(200);
    const removed = await t.call('DELETE', `/v1/models/${model.json.id}`);
    expect(removed.json.deleted).toBe(true);
  });

  it('takes what PEFT wrote, value by value', async () => {
    const folder = path.join(caseFolder('qwen3-tied'), 'adapter_final');
    const files = [CONFIG, WEIGHTS].map((name): FormFile => [name, readFileSync(path.join(folder, name))]);
    const model = await bringIn(t, files, { base_model: 'golden' });
    expect(model.status, model.text).toBe(200);
    const got = readTensors(
      (await bytesOf(t, `/v1/fine_tuning/adapters/${model.json.id}?format=safetensors`)).bytes,
    );
    const wrote = readTensors(files[1]![1] as Buffer);
    expect([...got.keys()].sort()).toEqual([...wrote.keys()].sort());
    for (const [name, tensor] of wrote) expect(got.get(name)!.bytes.equals(tensor.bytes), name).toBe(true);
  });

  it('keeps no pattern that somebody sent, and the mathematics', async () => {
    const config: LoraConfig = {
      ...{ r: 4, lora_alpha: 8, lora_dropout: 0, use_rslora: true, init_lora_weights: false },
      target_modules: '.*\\.(q|v|up)_proj',
      rank_pattern: { 'layers.1.*q_proj': 6 },
      alpha_pattern: { v_proj: 3 },
    };
    const made = LoraAdapter.create(there.world.model, config, 5);
    const folder = path.join(there.world.home, 'written', 'patterns');
    await made.save(folder, { baseModelName: 'tiny' });
    const model = await bringIn(t, [['p.tar', packed(folder)]]);
    expect(model.status, model.text).toBe(200);
    const { folder: came } = unpack((await bytesOf(t, `/v1/fine_tuning/adapters/${model.json.id}`)).bytes);
    const json = JSON.parse(readFileSync(path.join(came, CONFIG), 'utf8'));
    expect(json.target_modules).toHaveLength(6);
    expect(json.rank_pattern).toEqual({ 'model\\.layers\\.1\\.self_attn\\.q_proj': 6 });
    const loaded = LoraAdapter.load(came, there.world.model);
    expect(logits(there.world.model, loaded)).toEqual(logits(there.world.model, made));
    for (const each of [made, loaded]) each.dispose();
  });

  it('says at once when no worker has the model', async () => {
    await addBase(t, 'lonely', there.world.modelDirectory);
    const answer = await bringIn(t, both(), { base_model: 'lonely' });
    expect([answer.status, answer.json.error.code]).toEqual([503, 'model_unavailable']);
    expect(await stored('/imports/')).toEqual([]);
  });
});

/** Logits of a fixed text, with the adapter if one is given. */
function logits(model: Model, attached: LoraAdapter | null): number[] {
  if (attached) model.attach(attached);
  const ids = Int32Array.from([5, 17, 300, 42, 7, 99]);
  const positions = Int32Array.from(ids.keys());
  const batch = { ids, positions, cuSeqlens: Int32Array.of(0, ids.length), targets: ids };
  const values = model.logits(batch, Int32Array.of(2, 5));
  if (attached) model.detach();
  return [...values];
}

describe('an export', () => {
  const settled = async (id: string) => {
    const url = `/v1/fine_tuning/exports/${id}`;
    await vi.waitFor(async () => expect((await t.call('GET', url)).json.status).toMatch(/succeeded|failed/), {
      ...{ timeout: 60_000, interval: 100 },
    });
    return (await t.call('GET', url)).json;
  };
  const create = (model: string) => t.call('POST', '/v1/fine_tuning/exports', { json: { model } });

  it('is one folder that computes what base and adapter compute', async () => {
    const created = await create(there.trained);
    expect(created.json).toMatchObject({
      object: 'fine_tuning.export',
      model: there.trained,
      base_model: 'tiny',
      error: null,
    });
    const early = await t.call('GET', `/v1/fine_tuning/exports/${created.json.id}/content`);
    if (early.status !== 200)
      expect([early.status, early.json.error.code]).toEqual([400, 'export_not_ready']);
    const done = await settled(created.json.id);
    expect(done).toMatchObject({ status: 'succeeded', bytes: expect.any(Number) });
    expect(done.expires_at - done.finished_at).toBe(86_400);
    expect((await create(there.trained)).json.id).toBe(done.id);
    expect((await t.call('GET', '/v1/fine_tuning/exports')).json.data[0].id).toBe(done.id);

    const { bytes } = await bytesOf(t, `/v1/fine_tuning/exports/${done.id}/content`);
    const whole = unpack(bytes);
    expect(whole.files).toEqual(
      expect.arrayContaining([
        'README.md',
        'config.json',
        'model.safetensors',
        'tokenizer.json',
        'chat_template.jinja',
      ]),
    );
    const device = openDevice({ kind: 'cpu' });
    const merged = openModel(whole.folder, device, { dtype: 'f32' });
    const loaded = LoraAdapter.load(there.adapter.folder, there.world.model);
    const [expected, plain, got] = [
      logits(there.world.model, loaded),
      logits(there.world.model, null),
      logits(merged, null),
    ];
    const norm = (a: number[]) => Math.hypot(...a);
    const apart = (a: number[], b: number[]) => norm(a.map((value, i) => value - b[i]!)) / norm(b);
    expect(apart(got, expected)).toBeLessThan(2e-6);
    expect(apart(plain, expected)).toBeGreaterThan(1e-2);
    loaded.dispose();
    merged.dispose();

    expect((await t.call('DELETE', `/v1/fine_tuning/exports/${done.id}`)).json.deleted).toBe(true);
    expect((await t.call('GET', `/v1/fine_tuning/exports/${done.id}`)).status).toBe(404);
  });

  it('of a fully trained model is there at once', async () => {
    const folder = await there.world.writeFullModel(9);
    const { files, digest, storage_prefix } = await (async () => {
      const prefix = `projects/${t.alice.projectId}/jobs/${newId('ftjob-')}/e1/model`;
      const list = [];
      for (const name of ['config.json', 'model.safetensors'])
        list.push({
          name,
          ...(await t.storage.put(`${prefix}/${name}`, readFileSync(path.join(folder, name)))),
        });
      return { files: list, digest: 'full', storage_prefix: prefix };
    })();
    const id = 'ft:tiny:acme:full:aaaaaaaa';
    await t.database.db.insert(tunedModels).values({
      ...{ id, projectId: t.alice.projectId, baseModel: 'tiny', kind: 'full', ownedBy: 'acme', step: 1 },
      ...{ isCheckpoint: false, storagePrefix: storage_prefix, files, digest },
    });
    const created = await create(id);
    expect(created.json.status).toBe('succeeded');
    const whole = unpack((await bytesOf(t, `/v1/fine_tuning/exports/${created.json.id}/content`)).bytes);
    expect(whole.read('model.safetensors').equals(readFileSync(path.join(folder, 'model.safetensors')))).toBe(
      true,
    );
    const none = await t.call('GET', `/v1/fine_tuning/adapters/${id}`);
    expect([none.status, none.json.error.code]).toEqual([400, 'no_adapter']);
  });

  it('fails with a reason when its adapter is gone, and is limited in number', async () => {
    const id = 'ft:tiny:acme:gone:bbbbbbbb';
    const missing = [{ name: CONFIG, bytes: 1, sha256: '0' }];
    await t.database.db.insert(tunedModels).values({
      ...{ id, projectId: t.alice.projectId, baseModel: 'tiny', kind: 'adapter', ownedBy: 'acme', step: 1 },
      ...{ isCheckpoint: false, storagePrefix: 'projects/nowhere', files: missing, digest: 'gone' },
    });
    const failed = await settled((await create(id)).json.id);
    expect(failed).toMatchObject({ status: 'failed', error: { code: 'export_failed' } });
    const base = await create('tiny');
    expect([base.status, base.json.error.code, base.json.error.param]).toEqual([
      400,
      'unsupported_value',
      'model',
    ]);
    expect((await create(there.trained)).status).toBe(200);
    await t.database.db.update(tunedModels).set({ baseModel: 'lonely' }).where(eq(tunedModels.id, id));
    expect((await create(id)).json.error.code).toBe('too_many_exports');
  });

  it('is begun again when its worker dies, and given up after three', async () => {
    const row = {
      ...{
        projectId: t.alice.projectId,
        kind: 'export',
        baseModel: 'tiny',
        modelId: there.trained,
        status: 'running',
      },
      ...{ workerId: 'worker_gone', leaseUntil: new Date(Date.now() - 1000) },
    };
    const [model] = await t.database.db.select().from(tunedModels).where(eq(tunedModels.id, there.trained));
    const input = { inputPrefix: model!.storagePrefix, inputFiles: model!.files };
    const [again, never] = [newId('export_'), newId('export_')];
    await t.database.db.insert(modelOperations).values([
      { id: again, epoch: 1, ...row, ...input },
      { id: never, epoch: 3, ...row, ...input },
    ]);
    expect((await settled(again)).status).toBe('succeeded');
    await sweepOnce(t);
    expect((await settled(never)).error).toMatchObject({ code: 'worker_crashed' });
  });
});
