// Files in and out without Python: adapters that PEFT trained and saved work here, and what we save has exactly the
// names, shapes, dtypes and config keys of PEFT's and transformers' own files. The other direction, loading ours in
// Python, is test/golden/verify_roundtrip.py.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import { KvCache } from '../../workers/engine/models/paged.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import {
  CASES,
  type CaseName,
  caseFolder,
  everyRow,
  pack,
  readJson,
  readReference,
  readSafetensors,
  readTensors,
  type StoredTensor,
} from '../golden/read.ts';
import { expectClose, reportFigures } from '../helpers/expect-close.ts';
import { generateNaive } from '../helpers/generate-naive.ts';
import { disposeAfterEach, ownFolder } from '../helpers/owned.ts';
import { TOLERANCE } from '../helpers/tolerance.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

reportFigures();

function temporaryFolder(): string {
  return ownFolder(own, 'lathe-roundtrip-');
}

function openCase(name: CaseName, options: { dtype?: 'f32' | 'bf16'; forServing?: boolean } = {}): Model {
  return own(openModel(caseFolder(name), device, { dtype: 'f32', ...options }));
}

function loadAdapter(model: Model, folder: string): LoraAdapter {
  return own(LoraAdapter.load(folder, model));
}

/** name → dtype and shape of every tensor of a file, in the order of the names. */
function layout(tensors: Map<string, StoredTensor>) {
  return [...tensors]
    .map(([name, { dtype, shape }]) => ({ name, dtype, shape }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The tensors of a model folder, whether in one file or in shards. */
function readModelTensors(folder: string): Map<string, StoredTensor> {
  const files = readdirSync(folder).filter((file) => /^model.*\.safetensors$/.test(file));
  return new Map(files.flatMap((file) => [...readSafetensors(join(folder, file))]));
}

const ADAPTERS: { name: CaseName; folder: string }[] = [
  ...CASES.map((name) => ({ name, folder: 'adapter_final' })),
  { name: 'qwen2-yarn', folder: 'adapter_rslora' },
];

/** Prefill of every sequence of the batch through a paged cache, whose blocks are handed out from the last to the first. */
function pagedLogits(model: Model, adapter: LoraAdapter, name: CaseName, rows: Int32Array): Float32Array {
  const batch = pack(readReference(name).batch);
  const [T, S, blockSize] = [batch.ids.length, batch.cuSeqlens.length - 1, 16];
  const lengths = Int32Array.from({ length: S }, (_, n) => batch.cuSeqlens[n + 1]! - batch.cuSeqlens[n]!);
  const maxBlocks = Math.ceil(Math.max(...lengths) / blockSize);
  const cache = own(new KvCache(model, { blocks: S * maxBlocks, blockSize }));
  const blockTables = Int32Array.from({ length: S * maxBlocks }, (_, i) => S * maxBlocks - 1 - i);
  const slots = Array.from(batch.positions, (position, t) => {
    const n = batch.cuSeqlens.findLastIndex((start) => start <= t);
    return (
      blockTables[n * maxBlocks + Math.floor(position / blockSize)]! * blockSize + (position % blockSize)
    );
  });
  return model.forwardPaged(
    {
      ids: batch.ids,
      positions: batch.positions,
      cuSeqlensQ: batch.cuSeqlens,
      contextLens: lengths,
      blockTables,
      maxBlocks,
      slots: Int32Array.from(slots),
      logitRows: rows,
      adapters: [{ adapter, start: 0, end: T }],
    },
    cache,
  );
}

describe('an adapter trained and saved by PEFT', () => {
  for (const { name, folder } of ADAPTERS) {
    const expected = readTensors(name).get(`logits.${folder}`)!.values;
    const batch = pack(readReference(name).batch);
    const path = join(caseFolder(name), folder);

    it(`gives PEFT's logits in training's forward: ${name}/${folder}`, () => {
      const model = openCase(name);
      model.attach(loadAdapter(model, path));
      const logits = model.logits(batch, everyRow(batch, 3));
      expectClose('PEFT adapter, training forward', 'logits', logits, expected, TOLERANCE.logitsF32);
    });

    it(`gives PEFT's logits in serving's forward: ${name}/${folder}`, () => {
      const model = openCase(name, { forServing: true });
      const logits = pagedLogits(model, loadAdapter(model, path), name, everyRow(batch, 3));
      expectClose('PEFT adapter, serving forward', 'logits', logits, expected, TOLERANCE.logitsF32);
    });

    it(`gives PEFT's logits after merging: ${name}/${folder}`, () => {
      const model = openCase(name);
      loadAdapter(model, path).mergeInto(model);
      const logits = model.logits(batch, everyRow(batch, 3));
      expectClose('PEFT adapter, merged', 'logits', logits, expected, TOLERANCE.logitsF32);
    });
  }

  for (const name of CASES) {
    it(`writes the greedy completion that PEFT writes: ${name}`, () => {
      const model = openCase(name);
      model.attach(loadAdapter(model, join(caseFolder(name), 'adapter_final')));
      const { prompt, completion } = readReference(name).greedy;
      const written = generateNaive(model, prompt, { maxTokens: completion.length, eos: [] });
      expect(Array.from(written)).toEqual(completion);
    });
  }
});

describe('an adapter saved by us', () => {
  for (const { name, folder } of ADAPTERS) {
    it(`is PEFT's file again after load and save: ${name}/${folder}`, async () => {
      const from = join(caseFolder(name), folder);
      const to = temporaryFolder();
      await loadAdapter(openCase(name), from).save(to, { baseModelName: name });
      const [ours, theirs] = [to, from].map((f) => readSafetensors(join(f, 'adapter_model.safetensors')));
      expect(layout(ours!)).toEqual(layout(theirs!));
      for (const [key, { values }] of theirs!) expect(ours!.get(key)!.values).toEqual(values);
      expectPeftConfig(readJson(to, 'adapter_config.json'), readJson(from, 'adapter_config.json'));
    });
  }

  for (const name of CASES) {
    it(`has PEFT's names and shapes when made here: ${name}`, async () => {
      const model = openCase(name);
      const adapter = own(LoraAdapter.create(model, LORA, 7));
      const [first, second] = [temporaryFolder(), temporaryFolder()];
      await adapter.save(first, { baseModelName: name });
      await adapter.save(second, { baseModelName: name });
      const theirs = readSafetensors(join(caseFolder(name), 'adapter_init', 'adapter_model.safetensors'));
      expect(layout(readSafetensors(join(first, 'adapter_model.safetensors')))).toEqual(layout(theirs));
      expect(header(join(first, 'adapter_model.safetensors')).__metadata__).toEqual({ format: 'pt' });
      expect(readdirSync(first).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
      for (const file of readdirSync(first)) {
        expect(readFileSync(join(second, file)).equals(readFileSync(join(first, file))), file).toBe(true);
      }
      const config = readJson<Record<string, unknown>>(
        caseFolder(name),
        'adapter_init',
        'adapter_config.json',
      );
      expectPeftConfig(readJson(first, 'adapter_config.json'), config);
    });
  }
});

const LORA = {
  r: 4,
  lora_alpha: 8,
  lora_dropout: 0,
  target_modules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
  use_rslora: false,
};

/** Keys that a LoRA adapter_config.json must have to be read by every PEFT since 0.10. */
const REQUIRED_KEYS = [
  'alpha_pattern',
  'auto_mapping',
  'base_model_name_or_path',
  'bias',
  'exclude_modules',
  'fan_in_fan_out',
  'inference_mode',
  'init_lora_weights',
  'layers_pattern',
  'layers_to_transform',
  'lora_alpha',
  'lora_dropout',
  'modules_to_save',
  'peft_type',
  'r',
  'rank_pattern',
  'revision',
  'target_modules',
  'task_type',
  'use_dora',
  'use_rslora',
];

function expectPeftConfig(ours: Record<string, unknown>, theirs: Record<string, unknown>): void {
  const sorted = (config: Record<string, unknown>): Record<string, unknown> => ({
    ...config,
    target_modules: [...(config.target_modules as string[])].sort(),
  });
  expect(Object.keys(ours)).toEqual(expect.arrayContaining(REQUIRED_KEYS));
  // no key that PEFT does not know, and none with another value
  expect(sorted(theirs)).toMatchObject(sorted(ours));
}

function header(path: string): { __metadata__?: Record<string, string> } {
  const file = readFileSync(path);
  return JSON.parse(file.toString('utf8', 8, 8 + Number(file.readBigUInt64LE(0))));
}

describe('a full model saved by us', () => {
  for (const name of CASES) {
    for (const dtype of ['f32', 'bf16'] as const) {
      it(`has transformers' names, shapes and values: ${name} as ${dtype}`, async () => {
        const folder = temporaryFolder();
        await openCase(name, { dtype }).save(folder);
        const [ours, theirs] = [folder, caseFolder(name)].map(readModelTensors);
        const stored = dtype === 'f32' ? 'F32' : 'BF16';
        expect(layout(ours!)).toEqual(layout(theirs!).map((entry) => ({ ...entry, dtype: stored })));
        for (const [key, { values }] of theirs!) expect(ours!.get(key)!.values, key).toEqual(values);
        const { dtype: _, ...config } = readJson<Record<string, unknown>>(caseFolder(name), 'config.json');
        // transformers 5 reads the dtype under its version 4 name too, version 4 only under that
        const torchDtype = dtype === 'f32' ? 'float32' : 'bfloat16';
        expect(readJson(folder, 'config.json')).toEqual({ ...config, torch_dtype: torchDtype });
        expect(readJson(folder, 'generation_config.json')).toEqual(
          readJson(caseFolder(name), 'generation_config.json'),
        );
      });
    }

    it(`gives the same logits when opened again: ${name}`, async () => {
      const folder = temporaryFolder();
      const model = openCase(name);
      await model.save(folder);
      const again = own(openModel(folder, device, { dtype: 'f32' }));
      const batch = pack(readReference(name).batch);
      expect(again.logits(batch, everyRow(batch, 1))).toEqual(model.logits(batch, everyRow(batch, 1)));
    });
  }
});
