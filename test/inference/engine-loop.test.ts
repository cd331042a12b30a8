/** Requests → events over the arithmetic model of fake-model.ts: batching must not change what anybody reads. */
import { describe, expect, it } from 'vitest';
import { adapterNumber, createLoop, naiveText, PROMPTS } from './fake-model.ts';

describe('engine loop', () => {
  for (const options of [
    { name: 'roomy', o: {} },
    { name: 'chunked prefill', o: { tokenBudget: 8 } },
    { name: 'few blocks, preemption', o: { blocks: 30 } },
    { name: 'no prefix cache', o: { prefixCache: false } },
    { name: 'one at a time', o: { maxRunning: 1 } },
  ]) {
    it(`gives every request the text of a lonely one: ${options.name}`, () => {
      const { run, submit, textOf, blocks, loop } = createLoop(options.o);
      const ids = PROMPTS.map((prompt, i) =>
        submit(prompt, { max_tokens: 40, temperature: i % 2 }, { seed: i }),
      );
      run();
      PROMPTS.forEach((prompt, i) => {
        expect(textOf(ids[i]!)).toBe(naiveText(prompt, { max_tokens: 40, temperature: i % 2 }, 0, i));
      });
      expect(blocks.free).toBe(blocks.total);
      blocks.verify([]);
      if (options.o.blocks) expect(loop.scheduler.preemptions).toBeGreaterThan(0);
    });
  }

  it('tells start, deltas, finish and done, in this order and with the counts', () => {
    const { run, submit, events, textOf } = createLoop();
    const id = submit([1, 2, 3], { max_tokens: 5, logit_bias: { 63: -100 } });
    run();
    const list = events.get(id)!;
    expect(list[0]).toEqual({ type: 'start', prompt_tokens: 3, cached_tokens: 0 });
    expect(list.slice(1, -2).every((event) => event.type === 'delta' && event.index === 0)).toBe(true);
    expect(list.at(-2)).toEqual({ type: 'finish', index: 0, reason: 'length' });
    expect(list.at(-1)).toEqual({ type: 'done', prompt_tokens: 3, completion_tokens: 5, cached_tokens: 0 });
    expect(textOf(id)).toHaveLength(5);
  });

  it('ends with stop at an end token, which is not shown', () => {
    const { run, submit, events, textOf } = createLoop();
    const id = submit([1], { logit_bias: { 63: 100 }, logprobs: true });
    run();
    expect(textOf(id)).toBe('');
    expect(events.get(id)!.map((event) => event.type)).toEqual(['start', 'finish', 'done']);
    expect(events.get(id)![1]).toEqual({ type: 'finish', index: 0, reason: 'stop' });
  });

  it('fills the context to its last token and no further', () => {
    const { run, submit, events } = createLoop({ contextLength: 20 });
    const id = submit([1, 2, 3], { max_tokens: null, logit_bias: { 63: -100 } });
    run();
    expect(events.get(id)!.at(-2)).toMatchObject({ reason: 'length' });
    expect(events.get(id)!.at(-1)).toMatchObject({ completion_tokens: 17 });
  });

  it('ends at a stop string without showing it', () => {
    const whole = naiveText([5, 6], { max_tokens: 30 });
    const stop = whole.slice(4, 7);
    const { run, submit, events, textOf } = createLoop();
    const id = submit([5, 6], { max_tokens: 30, stop: [stop] });
    run();
    expect(textOf(id)).toBe(whole.slice(0, whole.indexOf(stop)));
    expect(events.get(id)!.at(-2)).toMatchObject({ reason: 'stop' });
  });

  it('draws n different choices that share the blocks of the prompt', () => {
    const prompt = Array.from({ length: 40 }, (_, i) => i % 5);
    const { run, submit, textOf, events, runner, loop, blocks } = createLoop();
    const id = submit(prompt, { n: 3, temperature: 1 });
    for (let i = 0; i < 3; i++) loop.step(); // two chunks of the prompt, then the others join
    expect(loop.scheduler.running).toHaveLength(3);
    const [first, ...others] = loop.scheduler.running;
    // 40 tokens fill ten blocks of four; the tenth is left out because its last token must be run again
    for (const other of others) expect(other.blocks.slice(0, 9)).toEqual(first!.blocks.slice(0, 9));
    blocks.verify(loop.scheduler.running);
    run();
    for (const index of [0, 1, 2]) {
      expect(textOf(id, index)).toBe(naiveText(prompt, { temperature: 1 }, 0, 1, index));
    }
    expect(new Set([0, 1, 2].map((index) => textOf(id, index))).size).toBe(3);
    const finished = events.get(id)!.filter((event) => event.type === 'finish');
    expect(finished.map((event) => event.index).sort()).toEqual([0, 1, 2]);
    expect(events.get(id)!.at(-1)).toMatchObject({ type: 'done', prompt_tokens: 40, cached_tokens: 0 });
    expect(runner.tokensRun).toBeLessThan(40 + 2 * 4 + 3 * 12);
  });

  it('reports what came from the prefix cache, and shares it only under one salt', () => {
    const prompt = Array.from({ length: 21 }, (_, i) => i);
    const { run, submit, events, textOf } = createLoop();
    const ids = ['a', 'a', 'b'].map((cacheSalt) => {
      const id = submit(prompt, {}, { cacheSalt });
      run();
      return id;
    });
    expect(ids.map((id) => (events.get(id)![0] as { cached_tokens: number }).cached_tokens)).toEqual([
      0, 20, 0,
    ]);
    for (const id of ids) expect(textOf(id)).toBe(naiveText(prompt));
  });

  it('stops a cancelled request at once and frees its blocks', () => {
    const { loop, submit, events, blocks, run, textOf } = createLoop();
    const [a, b] = [submit([1, 2], { n: 2, max_tokens: 100 }), submit([3, 4], { max_tokens: 20 })];
    for (let i = 0; i < 4; i++) loop.step();
    const before = events.get(a)!.length;
    loop.cancel(a);
    blocks.verify(loop.scheduler.running);
    expect(loop.scheduler.running).toHaveLength(1);
    run();
    expect(events.get(a)).toHaveLength(before);
    expect(textOf(b)).toBe(naiveText([3, 4], { max_tokens: 20 }));
    expect(blocks.free).toBe(blocks.total);
    loop.cancel(a); // already gone
  });

  it('carries log-probabilities for every shown token, with alternatives', () => {
    const { run, submit, events } = createLoop();
    const id = submit([1, 2, 3], {
      logprobs: true,
      top_logprobs: 2,
      max_tokens: 6,
      logit_bias: { 63: -100 },
    });
    run();
    const tokens = events.get(id)!.flatMap((event) => (event.type === 'delta' ? event.tokens : []));
    expect(tokens).toHaveLength(6);
    for (const { logprob, top_logprobs, token } of tokens) {
      expect(logprob).toBeLessThan(0);
      expect(top_logprobs[0]).toMatchObject({ token, logprob }); // temperature 0 takes the best
      expect(top_logprobs[1]!.logprob).toBeLessThanOrEqual(logprob);
    }
  });
});

describe('adapters in the engine loop', () => {
  it('answers several adapters in one batch as it would one by one', () => {
    const { run, submit, textOf, runner } = createLoop();
    const numbers = [0, 1, 2, 3, 1, 0];
    const ids = numbers.map((n, i) => submit([i, 7], {}, { adapter: n === 0 ? null : adapterNumber(n) }));
    run();
    for (const [i, n] of numbers.entries()) expect(textOf(ids[i]!)).toBe(naiveText([i, 7], {}, n));
    expect(runner.steps).toBeLessThan(20); // together, not one after the other
  });

  it('keeps no more adapters than it may, and frees none in use', () => {
    const { loop, run, submit, textOf, adapters, loaded } = createLoop({ maxAdapters: 2 });
    const ids = [1, 2, 3, 4, 5].map((n) =>
      submit([n], { max_tokens: 10 + n }, { adapter: adapterNumber(n) }),
    );
    while (loop.step()) {
      expect(adapters.digests.length).toBeLessThanOrEqual(2);
      for (const { adapter } of loop.scheduler.running) expect(adapters.get(adapter!).disposed).toBe(false);
    }
    run();
    for (const [i, id] of ids.entries()) {
      expect(textOf(id)).toBe(naiveText([i + 1], { max_tokens: 11 + i }, i + 1));
    }
    expect(loaded.filter((adapter) => !adapter.disposed)).toHaveLength(2);
  });

  it('fails only the requests of a broken adapter, before their start', () => {
    const { run, submit, events, textOf, loaded } = createLoop();
    const bad = [1, 2].map(() => submit([1], { n: 2 }, { adapter: adapterNumber('broken') }));
    const good = submit([1], {}, { adapter: adapterNumber(1) });
    run();
    for (const id of bad) {
      expect(events.get(id)).toHaveLength(1);
      expect(events.get(id)![0]).toMatchObject({
        type: 'error',
        error: { status: 503, code: 'model_unavailable', retry_after_seconds: 30 },
      });
    }
    expect(textOf(good)).toBe(naiveText([1], {}, 1));
    expect(loaded).toHaveLength(1);
  });

  it('fails only the requests whose logits are not finite', () => {
    const { run, submit, events, textOf, blocks } = createLoop();
    const bad = submit([1, 2], { n: 2 }, { adapter: adapterNumber('infinite') });
    const good = submit([1, 2]);
    run();
    expect(events.get(bad)!.at(-1)).toMatchObject({
      type: 'error',
      error: { status: 500, code: 'model_not_finite' },
    });
    expect(textOf(good)).toBe(naiveText([1, 2]));
    expect(blocks.free).toBe(blocks.total);
  });
});
