/**
 * The engine loop on a device that computes while the host does other things, with a stand-in for the device: events are
 * made during the next step, and nothing else changes: not one event, not their order, not what is run.
 */
import { describe, expect, it } from 'vitest';
import { Sampler } from '../../workers/inference/sampling.ts';
import { deviceRunner } from './device-steps.ts';
import { adapterNumber, createLoop, naiveText, PROMPTS, plainSampling } from './fake-model.ts';

describe('on a device that works ahead', () => {
  const whole = (options = {}) => {
    const made = createLoop({ blocks: 30, ...options });
    const stop = naiveText([5, 6], { max_tokens: 30 }).slice(4, 7);
    const ids = [
      ...PROMPTS.map((prompt, i) => made.submit(prompt, { max_tokens: 40, temperature: i % 2 }, { seed: i })),
      made.submit([5, 6], { max_tokens: 30, stop: [stop], logprobs: true }),
      made.submit([1, 2], { n: 3, temperature: 1, logprobs: true, top_logprobs: 2 }),
      made.submit([1], { logit_bias: { 63: 100 } }),
      made.submit([8, 9], {}, { scorePrompt: 1 }),
      made.submit([1, 2], { n: 2 }, { adapter: adapterNumber('infinite') }),
      made.submit([3], {}, { adapter: adapterNumber('broken') }),
    ];
    made.run();
    return { ...made, events: ids.map((id) => made.events.get(id)) };
  };

  it('tells the same events in the same order, with the same steps', () => {
    const [plain, ahead] = [whole(), whole({ worksAhead: true })];
    expect(ahead.events).toEqual(plain.events);
    expect(ahead.runner.steps).toBe(plain.runner.steps);
    expect(ahead.runner.tokensRun).toBe(plain.runner.tokensRun);
    expect(ahead.blocks.free).toBe(ahead.blocks.total);
  });

  it('tells a step while the next one runs, and the last one at once', () => {
    const { loop, submit, events, runner } = createLoop({ worksAhead: true });
    const id = submit([1, 2, 3], { max_tokens: 3, logit_bias: { 61: -100, 62: -100, 63: -100 } });
    const told: [during: number, events: number][] = [];
    const run = runner.run.bind(runner);
    runner.run = (items, meanwhile) =>
      run(items, () => {
        meanwhile?.();
        told.push([runner.steps, events.get(id)?.length ?? 0]);
      });
    expect([loop.step(), loop.step(), loop.step()]).toEqual([true, true, false]);
    // start comes with the first step's launch; a delta with the launch after its own; the rest when nothing follows
    expect(told).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
    expect(events.get(id)!.map(({ type }) => type)).toEqual([
      'start',
      'delta',
      'delta',
      'delta',
      'finish',
      'done',
    ]);
  });

  it('does not run a sequence beyond its stop string, its end token or its length', () => {
    const text = naiveText([5, 6], { max_tokens: 30 });
    for (const worksAhead of [false, true]) {
      const { run, submit, runner, events } = createLoop({ worksAhead });
      const id = submit([5, 6], { max_tokens: 30, stop: [text[6]!] });
      run();
      const drawn = text.indexOf(text[6]!) + 1;
      expect(runner.tokensRun).toBe(2 + drawn - 1);
      expect(events.get(id)!.at(-2)).toMatchObject({ type: 'finish', reason: 'stop' });
    }
  });

  it('says nothing more about a cancelled request, and tells what waits when it is asked to', () => {
    const { loop, submit, events, run, textOf } = createLoop({ worksAhead: true });
    const [a, b] = [submit([1, 2], { max_tokens: 100 }), submit([3, 4], { max_tokens: 20 })];
    for (let i = 0; i < 4; i++) loop.step();
    const [before, others] = [events.get(a)!.length, events.get(b)!.length];
    loop.cancel(a);
    loop.tell();
    expect(events.get(a)).toHaveLength(before);
    expect(events.get(b)).toHaveLength(others + 1);
    run();
    expect(events.get(a)).toHaveLength(before);
    expect(textOf(b)).toBe(naiveText([3, 4], { max_tokens: 20 }));
  });

  it('tells a step whose successor does not fit into memory once', () => {
    const made = createLoop({ worksAhead: true });
    const ids = [
      [1, 2],
      [3, 4],
    ].map((prompt) => made.submit(prompt, { max_tokens: 12 }));
    made.loop.step();
    made.runner.fits = 1;
    made.run();
    expect(ids.map((id) => made.textOf(id))).toEqual([naiveText([1, 2]), naiveText([3, 4])]);
    expect(made.runner.trims).toBeGreaterThan(0);
  });

  it('is told by the runner once all work of a step is asked for and before its tokens are known', () => {
    const sampler = new Sampler(plainSampling, 1, 0);
    const order: string[] = [];
    const drawn = sampler.drawn.bind(sampler);
    sampler.drawn = (token) => {
      order.push('drawn');
      drawn(token);
    };
    const runner = deviceRunner();
    const item = { start: 0, blocks: [0], adapterKey: null, adapter: null, sampler, score: null };
    runner.run([{ ...item, tokens: Int32Array.of(5, 6) }], () => order.push('meanwhile'));
    runner.run([{ ...item, tokens: Int32Array.of(7), start: 2 }], () => order.push('meanwhile'));
    expect(order).toEqual(['meanwhile', 'drawn', 'meanwhile', 'drawn']);
  });
});
