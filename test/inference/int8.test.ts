/** int8 weights on the shipped model: what rounding costs on rows it never saw, and that a row's result is its own. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readExample } from '../../workers/engine/data/formats.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { KvCache, type Model, openModel } from '../../workers/engine/models/index.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { encodeExample } from '../engine/data/encoded.ts';
import { disposeAfterAll } from '../helpers/owned.ts';

const FOLDER = path.join(import.meta.dirname, '../../models/lathe-tiny');
const ROWS = path.join(import.meta.dirname, '../../examples/data/heldout.jsonl');
const device = openDevice({ kind: 'cpu' });
const { threads } = device;
const owned = disposeAfterAll();
afterAll(() => device.native.configure({ threads }));

const bf16 = owned(openModel(FOLDER, device, { dtype: 'bf16', forServing: true }));
const int8 = owned(openModel(FOLDER, device, { dtype: 'bf16', forServing: true, quantization: 'int8' }));
const V = int8.config.vocabSize;
const tokenizer = loadTokenizer(FOLDER);

interface Prompt {
  ids: number[];
  adapter: LoraAdapter | null;
}

/** Logits of every token of the prompts, run together: one block of the cache each. */
function logitsOf(model: Model, prompts: readonly Prompt[]): Float32Array[] {
  const blockSize = 512;
  const cache = new KvCache(model, { blocks: prompts.length, blockSize });
  const starts = prompts.map((_, n) => prompts.slice(0, n).reduce((sum, { ids }) => sum + ids.length, 0));
  const each = (f: (t: number, n: number) => number) =>
    Int32Array.from(prompts.flatMap(({ ids }, n) => ids.map((_, t) => f(t, n))));
  const total = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  const logits = model.forwardPaged(
    {
      ids: Int32Array.from(prompts.flatMap(({ ids }) => ids)),
      positions: each((t) => t),
      cuSeqlensQ: Int32Array.from([...starts, total]),
      contextLens: Int32Array.from(prompts, ({ ids }) => ids.length),
      blockTables: Int32Array.from(prompts.keys()),
      maxBlocks: 1,
      slots: each((t, n) => n * blockSize + t),
      logitRows: Int32Array.from({ length: total }, (_, row) => row),
      adapters: prompts.map(({ adapter, ids }, n) => ({
        adapter,
        start: starts[n]!,
        end: starts[n]! + ids.length,
      })),
    },
    cache,
  );
  cache.dispose();
  return prompts.map(({ ids }, n) => logits.slice(starts[n]! * V, (starts[n]! + ids.length) * V));
}

const logSoftmax = (row: Float32Array): Float64Array => {
  const peak = row.reduce((a, b) => Math.max(a, b));
  const mass = Math.log(row.reduce((sum, x) => sum + Math.exp(x - peak), 0));
  return Float64Array.from(row, (x) => x - peak - mass);
};

describe('int8 weights', () => {
  it('cost little on held-out rows', () => {
    let [count, lossBf16, lossInt8, kl, sameToken] = [0, 0, 0, 0, 0];
    for (const line of readFileSync(ROWS, 'utf8').trim().split('\n')) {
      const example = readExample(JSON.parse(line), 'chat', () => {});
      const encoded = encodeExample(example as never, tokenizer, { maxLength: 512, overlong: 'error' })!;
      const prompt = [{ ids: [...encoded.ids], adapter: null }];
      const [a, b] = [logitsOf(bf16, prompt)[0]!, logitsOf(int8, prompt)[0]!];
      encoded.targets.forEach((target, t) => {
        if (target < 0) return;
        const [p, q] = [a, b].map((logits) => logSoftmax(logits.subarray(t * V, (t + 1) * V)));
        lossBf16 -= p![target]!;
        lossInt8 -= q![target]!;
        kl += p!.reduce((sum, logp, v) => sum + Math.exp(logp) * (logp - q![v]!), 0);
        const best = (x: Float64Array) => x.indexOf(x.reduce((most, y) => Math.max(most, y)));
        sameToken += best(p!) === best(q!) ? 1 : 0;
        count++;
      });
    }
    console.log(
      `int8 on ${count} labelled tokens: loss ${(lossBf16 / count).toFixed(4)} → ${(lossInt8 / count).toFixed(4)}, ` +
        `KL ${(kl / count).toExponential(2)}, the same likeliest token ${((100 * sameToken) / count).toFixed(1)} %`,
    );
    expect(count).toBeGreaterThan(1000);
    // Rounding a row to 255 steps moves its weights by 0.8 % (uniform error of a 127th of the largest, 3 to 4
    // deviations): ten times less than what would move the loss by a tenth.
    expect(Math.abs(lossInt8 / lossBf16 - 1)).toBeLessThan(0.01);
    expect(kl / count).toBeLessThan(0.01);
  });

  it('give a sequence the same bytes alone, beside others and on one thread', () => {
    const adapter = (seed: number, r: number) => {
      const made = owned(LoraAdapter.create(int8, { ...LORA_DEFAULTS, r, init_lora_weights: false }, seed));
      return made;
    };
    const texts = ['Where does the river begin?', 'Two red cups.', 'a '.repeat(40)];
    const prompts = texts.map((text, n) => ({
      ids: tokenizer.encode(text),
      adapter: n === 1 ? null : adapter(n, 8 * (n + 1)),
    }));
    const together = logitsOf(int8, prompts);
    expect(prompts.map((prompt) => logitsOf(int8, [prompt])[0])).toEqual(together);
    device.native.configure({ threads: 1 });
    expect(logitsOf(int8, prompts)).toEqual(together);
    device.native.configure({ threads: 2 });
    expect(logitsOf(int8, prompts)).toEqual(together);
  });

  it('take half the memory of bf16', () => {
    const bytes = (model: Model) => model.linears().reduce((sum, { packed }) => sum + packed!.bytes, 0);
    // A scale of 4 bytes a row of 256 or 704 numbers comes on top.
    expect(bytes(int8) / bytes(bf16)).toBeLessThan(0.51);
  });

  it('are refused where there is no kernel for them', () => {
    expect(() => openModel(FOLDER, device, { dtype: 'bf16', quantization: 'int8' })).toThrow(
      'openModel: int8 weights are for serving on the CPU',
    );
  });
});
