/** What must not stop the others: a step that does not fit into memory, and an adapter that takes long to read. */
import { describe, expect, it } from 'vitest';
import { adapterNumber, createLoop, naiveText } from './fake-model.ts';

const prompts = [[1, 2, 3], Array.from({ length: 20 }, (_, i) => i % 7), [9], [4, 4, 4, 4]];

describe('memory', () => {
  it('that is short makes steps smaller, and changes nothing that anybody reads', () => {
    for (const fits of [16, 7, 2, 1]) {
      const { run, submit, textOf, runner, blocks } = createLoop();
      runner.fits = fits;
      const ids = prompts.map((prompt, seed) => submit(prompt, { max_tokens: 10, temperature: 1 }, { seed }));
      run();
      prompts.forEach((prompt, seed) => {
        expect(textOf(ids[seed]!)).toBe(naiveText(prompt, { max_tokens: 10, temperature: 1 }, 0, seed));
      });
      expect(runner.trims).toBeGreaterThan(0);
      expect(blocks.free).toBe(blocks.total);
    }
  });

  it('that holds not one token fails the requests with 503 and a time to wait, not the loop', () => {
    const { run, submit, events, textOf, runner, blocks } = createLoop();
    runner.fits = 0;
    const failed = submit([1, 2, 3], { n: 2 });
    run();
    expect(events.get(failed)?.at(-1)).toMatchObject({
      type: 'error',
      error: { status: 503, code: 'out_of_memory', retry_after_seconds: 5 },
    });
    expect(blocks.free).toBe(blocks.total);
    blocks.verify([]);
    runner.fits = 100;
    const next = submit([1, 2, 3]); // nothing of the failed step is in the prefix cache
    run();
    expect(textOf(next)).toBe(naiveText([1, 2, 3]));
  });

  it('errors of other kinds are not taken for it', () => {
    const { run, submit, runner } = createLoop();
    runner.run = () => {
      throw new Error('broken invariant');
    };
    submit([1]);
    expect(run).toThrow('broken invariant');
  });
});

describe('an adapter read in pieces', () => {
  it('lets running requests go on in between, and its own wait', () => {
    const { loop, submit, textOf, events } = createLoop({ adapterPieces: 6 });
    const running = submit([5, 6], { max_tokens: 40, logit_bias: { 63: -100 } });
    loop.step();
    const waiting = submit([1, 2], { max_tokens: 4 }, { adapter: adapterNumber(1) });
    let during = 0;
    const tokensTold = () => events.get(running)!.length;
    for (let i = 0; events.get(waiting) === undefined; i++) {
      const had = tokensTold();
      loop.step();
      if (tokensTold() > had) during++;
      expect(i).toBeLessThan(50);
    }
    expect(during).toBeGreaterThanOrEqual(6);
    while (loop.step());
    expect(textOf(waiting)).toBe(naiveText([1, 2], { max_tokens: 4 }, 1));
    expect(textOf(running)).toBe(naiveText([5, 6], { max_tokens: 40, logit_bias: { 63: -100 } }));
  });

  it('that is broken refuses its own requests only', () => {
    const { run, submit, events, textOf } = createLoop({ adapterPieces: 2 });
    const bad = submit([1, 2], {}, { adapter: adapterNumber('broken') });
    const good = submit([3]);
    run();
    expect(events.get(bad)?.at(-1)).toMatchObject({
      type: 'error',
      error: { status: 503, code: 'model_unavailable' },
    });
    expect(textOf(good)).toBe(naiveText([3]));
  });
});

describe('scored prompts', () => {
  it('report every token once, in chunks and after preemption alike', () => {
    const prompt = Array.from({ length: 50 }, (_, i) => (i * i) % 11);
    const plain = createLoop();
    const tight = createLoop({ blocks: 30, tokenBudget: 8 });
    const scores = [plain, tight].map(({ submit, run, events }) => {
      const id = submit(prompt, { max_tokens: 3 }, { scorePrompt: 1, cacheSalt: 'alone' });
      submit([1, 2, 3], { max_tokens: 60 });
      run();
      const told = events.get(id)!.filter((event) => event.type === 'prompt');
      expect(told).toHaveLength(1);
      return told[0]!.tokens;
    });
    expect(scores[0]).toHaveLength(50);
    expect(scores[1]).toEqual(scores[0]);
    expect(scores[0]![0]!.logprob).toBeNull();
    for (const { logprob } of scores[0]!.slice(1)) expect(logprob).toBeLessThan(0);
  });
});
