// A model host with the runner of devices, on the CPU's ops: what it answers is what the other runner answers.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import type { EngineEvent } from '../../workers/inference/generation.ts';
import { GrammarStates } from '../../workers/inference/grammar/states.ts';
import { ModelHost } from '../../workers/inference/model-host.ts';
import { adapters, device, FOLDER, owned } from './device-steps.ts';
import { plainSampling } from './fake-model.ts';

describe('a model host', () => {
  it('answers the same through either runner', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'lathe-host-'));
    await adapters[0]!.save(folder, { baseModelName: 'lathe-tiny' });
    const tokenizer = loadTokenizer(FOLDER);
    const grammars = new GrammarStates(tokenizer.vocabSize);
    const endless = Object.fromEntries([...tokenizer.eosIds].map((id) => [id, -100]));
    const answers = (['model', 'device'] as const).map((runner) => {
      const events: EngineEvent[] = [];
      const host = owned(
        new ModelHost({
          directory: FOLDER,
          device,
          tokenizer,
          kvCacheBytes: 2 ** 24,
          blockSize: 16,
          prefixCache: true,
          maxRunning: 8,
          maxAdapters: 2,
          tokenBudget: 16,
          deliver: (told) => events.push(...told),
          grammars,
          runner,
        }),
      );
      [null, folder, null].forEach((directory, i) => {
        host.loop.submit({
          id: i + 1,
          prompt: Int32Array.from(tokenizer.encode('Where does the river begin, and who told you?')),
          adapter: directory === null ? null : { modelId: 'tuned', digest: 'tuned', directory },
          cacheSalt: String(directory),
          sampling: {
            ...plainSampling,
            max_tokens: 12,
            temperature: 0,
            logprobs: true,
            n: i === 2 ? 2 : 1,
            logit_bias: endless,
          },
          seed: 3,
          grammar: null,
          scorePrompt: null,
        });
      });
      while (host.loop.step());
      return events.map(([id, event]) => [
        id,
        event.type,
        event.type === 'delta' ? event.tokens.map(({ token }) => token) : null,
      ]);
    });
    await rm(folder, { recursive: true });
    const said = (answer: (typeof answers)[number]) =>
      [1, 2, 3].map((id) => answer.filter(([of, type]) => of === id && type === 'delta').map((a) => a[2]));
    expect(said(answers[1]!)).toEqual(said(answers[0]!));
    expect(said(answers[1]!).flat(2).length).toBeGreaterThan(40);
    expect(said(answers[1]!)[0]).not.toEqual(said(answers[1]!)[1]);
    expect(answers[1]!.filter(([, type]) => type === 'done')).toHaveLength(3);
  });
});
