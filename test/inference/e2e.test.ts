/** The whole worker over HTTP, with a real (small, random) model: what it says must be what the training forward says. */
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { WireAdapter } from '../../src/inference/protocol.ts';
import { openModel } from '../../workers/engine/models/index.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { generateNaive } from '../helpers/generate-naive.ts';
import { type Answer, CONTEXT, flipByte, TinyWorker, TinyWorld } from './tiny-worker.ts';

let world: TinyWorld;
let worker: TinyWorker;
const folders: string[] = [];
const adapters: WireAdapter[] = [];

beforeAll(async () => {
  world = await TinyWorld.create();
  for (const seed of [1, 2, 3]) {
    folders.push(await world.writeAdapter(seed));
    adapters.push(await world.publish(folders.at(-1)!));
  }
  worker = await TinyWorker.start(world);
});
afterAll(async () => {
  await worker.stop();
  await world.remove();
});

const CONTENTS = [
  'Hello',
  'What is the price of apples today?',
  'one two three four five six seven '.repeat(6),
  'é😀',
];
const MAX_TOKENS = 20;

/** Token ids by the oracle: one sequence, one full training forward a token. */
function naive(content: string, adapter: string | null, temperature = 0, seed = 0, choice = 0): number[] {
  const loaded = adapter === null ? null : LoraAdapter.load(adapter, world.model);
  if (loaded) world.model.attach(loaded);
  try {
    return generateNaive(world.model, world.promptIds(content), {
      maxTokens: MAX_TOKENS,
      eos: world.eos,
      ...(temperature > 0 ? { sampling: { temperature, seed, stream: choice } } : {}),
    });
  } finally {
    world.model.detach();
    loaded?.dispose();
  }
}

/** The bytes of the tokens that were said, comparable with ids. */
const saidBytes = (answer: Answer, index = 0): number[][] =>
  answer.tokens[index]!.map((token) => token.bytes);
const bytesOf = (ids: number[]): number[][] => ids.map((id) => [...world.tokenizer.tokenBytes(id)]);
/** Everything in an answer that must not depend on what else ran. */
const essence = ({ text, tokens, reasons, completionTokens }: Answer) => ({
  text,
  tokens,
  reasons,
  completionTokens,
});

describe('train = serve', { timeout: 120_000 }, () => {
  it('says token for token what the training forward says, many requests together', async () => {
    const answers = await Promise.all(
      CONTENTS.map((content) => worker.ask({ content, max_tokens: MAX_TOKENS })),
    );
    expect(answers.map((answer) => answer.error)).toEqual(answers.map(() => null));
    for (const [i, content] of CONTENTS.entries()) {
      const expected = naive(content, null);
      expect(saidBytes(answers[i]!)).toEqual(bytesOf(expected));
      expect(answers[i]!.promptTokens).toBe(world.promptIds(content).length);
      expect(answers[i]!.text[0]).toBe(world.tokenizer.decode(expected, { skipSpecial: true }));
    }
  });

  it('answers three adapters and the base in one batch as one by one and as the oracle', async () => {
    const all = [null, 0, 1, 2].flatMap((a) => CONTENTS.map((content) => ({ a, content })));
    const ask = ({ a, content }: (typeof all)[number]) =>
      worker.ask({
        content,
        adapter: a === null ? null : adapters[a]!,
        max_tokens: MAX_TOKENS,
        top_logprobs: 2,
      });
    const together = await Promise.all(all.map(ask));
    for (const [i, one] of all.entries()) {
      const alone = await ask(one);
      expect(essence(alone)).toEqual(essence(together[i]!));
      expect(saidBytes(alone)).toEqual(bytesOf(naive(one.content, one.a === null ? null : folders[one.a]!)));
    }
    const texts = new Set(together.map((answer) => answer.text[0]));
    expect(texts.size).toBeGreaterThan(all.length / 2); // the adapters do make a difference
    expect((await worker.ask({ content: 'x', max_tokens: 1 })).status).toBe(200);
    expect(worker.engine.stats.adapters.sort()).toEqual(adapters.map((adapter) => adapter.digest).sort());
  });

  it('draws by seed alone: same seed, same text, whatever else is in the batch', async () => {
    const ask = (seed: number) =>
      worker.ask({ content: CONTENTS[1]!, temperature: 1, seed, n: 3, max_tokens: MAX_TOKENS });
    const alone = await ask(11);
    const noise = CONTENTS.map((content) => worker.ask({ content, temperature: 1, max_tokens: 60 }));
    const crowded = await ask(11);
    await Promise.all(noise);
    expect(essence(crowded)).toEqual(essence(alone));
    expect(new Set(alone.text).size).toBe(3);
    for (const choice of [0, 1, 2]) {
      expect(saidBytes(alone, choice)).toEqual(bytesOf(naive(CONTENTS[1]!, null, 1, 11, choice)));
    }
    expect(essence(await ask(12))).not.toEqual(essence(alone));
  });

  it('changes nothing by chunked prefill, prefix cache, few blocks or one at a time', async () => {
    const expected = CONTENTS.map((content) => bytesOf(naive(content, folders[0]!)));
    const perBlock = 2 * 2 * 16 * 2 * 16 * 4; // k and v, layers, tokens, heads, size, bytes
    const variants = [
      { tokenBudget: 8, prefixCache: false },
      { prefixCache: false },
      { kvCacheBytes: (CONTEXT / 16 + 2) * perBlock },
      { maxRunning: 1, blockSize: 32 },
    ];
    for (const options of variants) {
      const variant = await TinyWorker.start(world, options);
      for (let round = 0; round < 2; round++) {
        const answers = await Promise.all(
          CONTENTS.map((content) => variant.ask({ content, adapter: adapters[0]!, max_tokens: MAX_TOKENS })),
        );
        expect(answers.map((answer) => answer.error)).toEqual(answers.map(() => null));
        expect(answers.map((answer) => saidBytes(answer))).toEqual(expected);
        const cached = answers[2]!.cachedTokens;
        if (options.prefixCache === false || round === 0) expect(cached).toBe(0);
        else expect(cached).toBeGreaterThan(0);
      }
      await variant.stop();
    }
  });

  it('serves a fully fine-tuned model and the base model side by side', async () => {
    const folder = await world.writeFullModel(9);
    const full = await world.publish(folder);
    const [tuned, base] = await Promise.all([
      worker.ask({ content: CONTENTS[1]!, adapter: full, max_tokens: MAX_TOKENS }),
      worker.ask({ content: CONTENTS[1]!, max_tokens: MAX_TOKENS }),
    ]);
    const model = openModel(folder, world.model.device, { dtype: 'f32' });
    const expected = generateNaive(model, world.promptIds(CONTENTS[1]!), {
      maxTokens: MAX_TOKENS,
      eos: world.eos,
    });
    model.dispose();
    expect(saidBytes(tuned)).toEqual(bytesOf(expected));
    expect(saidBytes(base)).toEqual(bytesOf(naive(CONTENTS[1]!, null)));
  });
});

describe('what a caller sees', { timeout: 120_000 }, () => {
  it('reports log-probabilities of the raw model: they match the oracle and never exceed certainty', async () => {
    const content = CONTENTS[0]!;
    const answer = await worker.ask({ content, temperature: 0.7, seed: 3, max_tokens: 8, top_logprobs: 20 });
    const all = world.promptIds(content);
    for (const token of answer.tokens[0]!) {
      const logits = world.model.logits(
        {
          ids: Int32Array.from(all),
          positions: Int32Array.from(all.keys()),
          cuSeqlens: Int32Array.of(0, all.length),
          targets: new Int32Array(all.length).fill(-100),
        },
        Int32Array.of(all.length - 1),
      );
      let total = 0;
      for (const logit of logits) total += Math.exp(logit);
      const top = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, 20);
      const expected = top.map((id) => logits[id]! - Math.log(total));
      token.top_logprobs.forEach((one, i) => {
        expect(one.logprob).toBeCloseTo(expected[i]!, 3);
      });
      const mass = token.top_logprobs.reduce((sum, one) => sum + Math.exp(one.logprob), 0);
      expect(mass).toBeGreaterThan(0);
      expect(mass).toBeLessThan(1 + 1e-6);
      const id = [...logits.keys()].find(
        (i) => String([...world.tokenizer.tokenBytes(i)]) === String(token.bytes),
      );
      expect(token.logprob).toBeCloseTo(logits[id!]! - Math.log(total), 3);
      all.push(id!);
    }
  });

  it('stops at a stop string that spans tokens, and shows none of it', async () => {
    const whole = await worker.ask({ content: CONTENTS[0]!, max_tokens: MAX_TOKENS });
    const text = whole.text[0]!;
    const stop = text.slice(5, 9);
    const shown: string[] = [];
    const cut = await worker.ask({
      content: CONTENTS[0]!,
      max_tokens: MAX_TOKENS,
      stop: [stop],
      onEvent: (event) => {
        if (event.type === 'delta') shown.push(event.text);
      },
    });
    expect(cut.text[0]).toBe(text.slice(0, text.indexOf(stop)));
    expect(cut.reasons).toEqual(['stop']);
    expect(cut.completionTokens).toBeLessThan(whole.completionTokens);
    for (const piece of shown) expect(piece.isWellFormed()).toBe(true);
  });

  it('ends with length at max_tokens and at the end of the context', async () => {
    const bias = Object.fromEntries([...world.eos].map((id) => [id, -100]));
    const short = await worker.ask({ content: 'Hi', max_tokens: 5, logit_bias: bias });
    expect([short.reasons, short.completionTokens]).toEqual([['length'], 5]);
    const long = await worker.ask({ content: 'Hi', max_tokens: null, logit_bias: bias, logprobs: false });
    expect([long.reasons, long.promptTokens + long.completionTokens]).toEqual([['length'], CONTEXT]);
  });

  it('refuses a prompt beyond the context with both counts', async () => {
    const content = 'apple '.repeat(400);
    const { status, error } = await worker.ask({ content });
    expect(status).toBe(400);
    expect(error).toMatchObject({ code: 'context_length_exceeded', param: 'messages' });
    expect(error!.message).toContain(`${CONTEXT} tokens`);
    expect(error!.message).toContain(`${world.promptIds(content).length} tokens`);
  });

  it('never lets text become a control token', async () => {
    const { promptTokens } = await worker.ask({ content: '<|im_end|>', max_tokens: 1 });
    expect(promptTokens).toBe(world.promptIds('<|im_end|>').length);
    expect(world.promptIds('<|im_end|>').filter((id) => world.eos.has(id))).toHaveLength(
      world.promptIds('x').filter((id) => world.eos.has(id)).length,
    );
  });
});

describe('faults', { timeout: 120_000 }, () => {
  it('fails only the requests of bad adapters while good ones are answered', async () => {
    const bytes = await flipByte(path.join(await world.writeAdapter(40), 'adapter_model.safetensors'));
    const flipped = await world.publish(folders[0]!, { name: 'adapter_model.safetensors', bytes });
    const garbage = await world.writeAdapter(41);
    await flipGarbage(garbage);
    const unreadable = await world.publish(garbage);
    const missing: WireAdapter = { ...adapters[0]!, digest: 'f'.repeat(64), storage_prefix: 'projects/none' };
    const expected = bytesOf(naive(CONTENTS[0]!, folders[1]!));
    const answers = await Promise.all(
      Array.from({ length: 25 }, (_, i) => [
        worker.ask({ content: CONTENTS[0]!, adapter: [flipped, unreadable, missing][i % 3]! }),
        worker.ask({ content: CONTENTS[0]!, adapter: adapters[1]!, max_tokens: MAX_TOKENS }),
      ]).flat(),
    );
    answers.forEach((answer, i) => {
      if (i % 2 === 1) {
        expect(saidBytes(answer)).toEqual(expected);
        return;
      }
      expect(answer.status).toBe(503);
      expect(answer.error).toMatchObject({ code: 'model_unavailable', type: 'service_unavailable_error' });
      expect(answer.error!.retry_after_seconds).toBeGreaterThan(0);
    });
  });

  it('stops within a step when the client leaves, and frees the cache', async () => {
    const total = worker.engine.info.kvBlocks;
    const bias = Object.fromEntries([...world.eos].map((id) => [id, -100]));
    for (let round = 0; round < 20; round++) {
      const leave = new AbortController();
      const asks = Array.from({ length: 3 }, () =>
        worker
          .ask({
            content: CONTENTS[2]!,
            max_tokens: null,
            logit_bias: bias,
            n: 2,
            signal: leave.signal,
            onEvent: () => setTimeout(() => leave.abort(), 5),
          })
          .catch((error: Error) => error.name),
      );
      expect(await Promise.all(asks)).toEqual(['AbortError', 'AbortError', 'AbortError']);
    }
    const began = performance.now();
    const answer = await worker.ask({ content: 'still there?', max_tokens: 3 });
    expect(answer.status).toBe(200);
    expect(performance.now() - began).toBeLessThan(5000);
    await sleep(50);
    expect(worker.engine.stats).toMatchObject({ running: 0, waiting: 0, freeBlocks: total });
  });

  it('answers 429 at once when its queue is full, and goes on', async () => {
    const small = await TinyWorker.start(world, { maxRunning: 1, maxWaiting: 1 });
    const bias = Object.fromEntries([...world.eos].map((id) => [id, -100]));
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => small.ask({ content: 'Hi', max_tokens: 60, logit_bias: bias })),
    );
    const statuses = answers.map((answer) => answer.status).sort();
    expect(statuses.filter((status) => status === 200).length).toBeGreaterThanOrEqual(2);
    expect(statuses.filter((status) => status === 429).length).toBeGreaterThanOrEqual(1);
    expect(statuses.every((status) => status === 200 || status === 429)).toBe(true);
    const refused = answers.find((answer) => answer.status === 429)!;
    expect(refused.error!.retry_after_seconds).toBe(1);
    expect((await small.ask({ content: 'Hi', max_tokens: 2 })).status).toBe(200);
    await small.stop();
  });

  it('lets running answers end when it drains', async () => {
    const leaving = await TinyWorker.start(world);
    let begin = (): void => undefined;
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const running = leaving.ask({ content: 'Hi', max_tokens: 40, onEvent: () => begin() });
    await begun;
    const drained = leaving.server.drain(10_000);
    const late = await leaving.ask({ content: 'late' });
    expect([late.status, late.error!.code]).toEqual([503, 'server_is_overloaded']);
    expect((await running).reasons[0]).toMatch(/stop|length/);
    expect(await drained).toBe(0);
    await leaving.stop();
  });
});

/** A file whose hash is right but which is no safetensors file. */
async function flipGarbage(folder: string): Promise<void> {
  const { writeFile } = await import('node:fs/promises');
  await writeFile(path.join(folder, 'adapter_model.safetensors'), Buffer.alloc(500, 'x'));
}
