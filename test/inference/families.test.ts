/** Every supported family through the scheduler, with adapters that PEFT itself trained and saved (test/golden). */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { KvCache, openModel } from '../../workers/engine/models/index.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { ResidentAdapters } from '../../workers/inference/adapters.ts';
import { EngineLoop } from '../../workers/inference/engine-loop.ts';
import type { Vocabulary } from '../../workers/inference/generation.ts';
import { GrammarStates } from '../../workers/inference/grammar/states.ts';
import { KvBlocks } from '../../workers/inference/kv-blocks.ts';
import { ModelRunner } from '../../workers/inference/model-runner.ts';
import { CASES, type CaseName, caseFolder, readReference } from '../golden/read.ts';
import { generateNaive } from '../helpers/generate-naive.ts';
import { disposeAfterAll } from '../helpers/owned.ts';
import { plainSampling } from './fake-model.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterAll();

/** Tokens read as their numbers, so that a test sees ids. */
const numbers: Vocabulary = {
  eos: new Set(),
  createDecoder: () => ({ push: (token) => `${token} `, flush: () => '' }),
  describe: (token) => ({ token: String(token), bytes: [] }),
};

function serve(name: CaseName, forServing: boolean) {
  const model = openModel(caseFolder(name), device, { dtype: 'f32', forServing });
  const cache = new KvCache(model, { blocks: 24, blockSize: 4 });
  const adapters = new ResidentAdapters({
    capacity: 2,
    load: (directory) => LoraAdapter.load(directory, model),
    retryAfterMilliseconds: 1000,
  });
  for (const thing of [model, cache, adapters]) own(thing);
  const texts = new Map<number, string>();
  const loop = new EngineLoop({
    blocks: new KvBlocks({ blocks: 24, blockSize: 4, prefixCache: true }),
    runner: new ModelRunner(model, cache, model.config.vocabSize),
    adapters,
    vocabulary: numbers,
    contextLength: 64,
    tokenBudget: 6,
    maxRunning: 4,
    grammars: new GrammarStates(model.config.vocabSize),
    deliver: (events) => {
      for (const [id, event] of events) {
        if (event.type === 'delta') texts.set(id, (texts.get(id) ?? '') + event.text);
      }
    },
  });
  let lastId = 0;
  const submit = (prompt: number[], adapter: string | null): number => {
    loop.submit({
      id: ++lastId,
      prompt: Int32Array.from(prompt),
      adapter: adapter === null ? null : { modelId: adapter, digest: adapter, directory: adapter },
      cacheSalt: String(adapter),
      sampling: { ...plainSampling, max_tokens: 16 },
      seed: 1,
      grammar: null,
      scorePrompt: null,
    });
    return lastId;
  };
  const idsOf = (id: number): number[] => texts.get(id)!.trim().split(' ').map(Number);
  return { loop, submit, idsOf };
}

describe('families and adapters of PEFT', () => {
  for (const name of CASES) {
    it(`${name}: writes in a crowded batch what transformers and PEFT write`, () => {
      const { prompt, completion } = readReference(name).greedy;
      const final = path.join(caseFolder(name), 'adapter_final');
      const initial = path.join(caseFolder(name), 'adapter_init');
      for (const forServing of [false, true]) {
        const { loop, submit, idsOf } = serve(name, forServing);
        const reversed = [...prompt].reverse();
        const asks = [
          [prompt, final],
          [prompt, null],
          [reversed, initial],
          [prompt, final],
          [reversed, null],
        ] as const;
        const ids = asks.map(([tokens, adapter]) => submit([...tokens], adapter));
        while (loop.step());
        expect(idsOf(ids[0]!)).toEqual(completion);
        expect(idsOf(ids[3]!)).toEqual(completion);
        const oracle = own(openModel(caseFolder(name), device, { dtype: 'f32' }));
        expect(idsOf(ids[1]!)).toEqual(generateNaive(oracle, prompt, { maxTokens: 16 }));
        expect(idsOf(ids[4]!)).toEqual(generateNaive(oracle, reversed, { maxTokens: 16 }));
      }
    });
  }
});
