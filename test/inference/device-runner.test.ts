// The runner of devices on the CPU's ops: the shipped model and random adapters, beside ModelRunner on the same steps.
import { describe, expect, it } from 'vitest';
import type { Recorder } from '../../workers/engine/graphs.ts';
import type { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import type { GrammarState } from '../../workers/inference/grammar/states.ts';
import type { Sample } from '../../workers/inference/sample.ts';
import {
  type Ask,
  adapter,
  adapters,
  asks,
  deviceRunner,
  drive,
  expectClose,
  lora,
  reference,
  tokensOf,
  vocabulary,
} from './device-steps.ts';

describe('tokens of the device runner', () => {
  it('are those of the model runner: greedy, three adapters and the base, prompts beside decoding', () => {
    const given = asks(8, { temperature: 0, logprobs: true, top_logprobs: 3 });
    const wanted = drive(reference(), given, 10);
    expect(new Set(tokensOf(wanted).map(String)).size).toBeGreaterThan(4);
    expectClose(drive(deviceRunner(), given, 10), wanted);
    expectClose(drive(deviceRunner({ adapterDtype: 'bf16' }), given, 10), wanted);
  });

  it('are drawn the same from seeds, with penalties and bias', () => {
    const given = asks(6, {
      temperature: 0.9,
      logprobs: true,
      presence_penalty: 0.7,
      frequency_penalty: -0.4,
      logit_bias: { 7: 2.5, 11: -100, 60: 1 },
    });
    const wanted = drive(reference(), given, 12);
    expectClose(drive(deviceRunner(), given, 12), wanted);
  });

  it('do not depend on padding, nor on how often a step was recorded', () => {
    const given = asks(11, { temperature: 0.8, logprobs: true, top_logprobs: 2 });
    let replays = 0;
    // Records by remembering the work: what is run again is the work of the second step of a shape.
    const recorder: Recorder = {
      record: (work) => ({
        run: () => {
          replays++;
          work();
        },
        dispose: () => undefined,
      }),
    };
    const recording = deviceRunner({ recorder });
    const [padded, exact, replayed] = [deviceRunner(), deviceRunner({ padded: false }), recording].map(
      (runner) => drive(runner, given, 9),
    );
    expect(padded).toEqual(replayed);
    expectClose(padded!, exact!);
    expect(replays).toBeGreaterThan(0);
    expect(recording.recorded).toBeGreaterThan(0);
  });

  it('follow masks, and say when a mask leaves nothing, comes late or was lost', () => {
    const allow = (...tokens: number[]) => {
      const mask = new Int32Array(Math.ceil(vocabulary / 32));
      for (const token of tokens) mask[token >> 5]! |= 1 << (token & 31);
      return mask;
    };
    const grammar = (mask: Int32Array | 'late' | 'broken'): GrammarState => ({
      mask: () => mask,
      accept: () => undefined,
      close: () => undefined,
    });
    const given = asks(5, { temperature: 1, logprobs: true, top_logprobs: 4 }).map((ask, i) => ({
      ...ask,
      from: 0,
      ...[
        { grammar: grammar(allow(40, 41, 95)) },
        {},
        { grammar: grammar(allow()) },
        { grammar: grammar('late') },
        { grammar: grammar('broken') },
      ][i]!,
    }));
    const [wanted, found] = [reference(), deviceRunner()].map((runner) => drive(runner, given, 4));
    expect(tokensOf(found!)).toEqual(tokensOf(wanted!));
    for (const sample of found![0]! as Sample[]) {
      expect([40, 41, 95]).toContain(sample.token);
      expect(sample.top).toHaveLength(3);
    }
    expect(new Set(found![2])).toEqual(new Set(['dead-end']));
    expect(new Set(found![3])).toEqual(new Set(['late']));
    expect(new Set(found![4])).toEqual(new Set(['broken']));
  });

  it('come with the scores of the prompt', () => {
    const [wanted, found] = [reference(), deviceRunner()].map((runner) => {
      const given = asks(3, { temperature: 0 }).map((ask) => ({ ...ask, scored: [] as Ask['scored'] }));
      drive(runner, given, 2);
      return given.map(({ scored }) => scored!);
    });
    wanted!.forEach((scores, i) => {
      expect(found![i]!.map(([at]) => at)).toEqual(scores.map(([at]) => at));
      scores.forEach(([, logits], k) => {
        const error = Math.max(...logits.map((logit, v) => Math.abs(logit - found![i]![k]![1][v]!)));
        expect(error).toBeLessThan(1e-3);
      });
    });
  });
});

describe('adapters in the pool', () => {
  it('are evicted, loaded again and moved when a larger one comes, without a trace in the tokens', () => {
    const runner = deviceRunner({ adapterSlots: 2 });
    const given = asks(4, { temperature: 0, logprobs: true });
    const wanted = drive(reference(), given, 6);
    // Smallest first, so that the pool grows with others in it; then all again in what has become of it.
    for (const i of [0, 2, 1, 3, 1, 2, 3]) {
      const [alone] = drive(runner, [{ ...given[i]!, from: 0 }], 6);
      const [same] = drive(reference(), [{ ...given[i]!, from: 0 }], 6);
      expectClose([alone!], [same!]);
      expect(tokensOf([alone!])).toEqual(tokensOf([wanted[i]!]));
      if (given[i]!.adapter) expect(runner.pool.residents).toContain(given[i]!.adapter);
    }
    expect(runner.pool.generation).toBe(3);
  });

  it('keep their slots while a step uses them', () => {
    const { pool } = deviceRunner({ adapterSlots: 2 });
    const [a, b, c] = adapters as [LoraAdapter, LoraAdapter, LoraAdapter];
    const [first, second] = pool.slotsOf([a, b]);
    expect(new Set([first, second])).toEqual(new Set([0, 1]));
    expect(pool.slotsOf([b, c, b])).toEqual([second, first, second]);
    expect(new Set(pool.residents)).toEqual(new Set([b, c]));
    expect(pool.slotsOf([b])).toEqual([second]);
    expect(pool.slotsOf([a])).toEqual([first]);
    expect(() => pool.slotsOf([a, b, c])).toThrow('a step of 3 adapters; the pool has 2 slots');
  });

  it('give their slots up first once they are disposed', () => {
    const { pool } = deviceRunner({ adapterSlots: 2 });
    const passing = adapter(9, lora(8, ['o_proj']));
    pool.slotsOf([adapters[1]!]);
    const [second] = pool.slotsOf([passing]);
    passing.dispose();
    expect(pool.slotsOf([adapters[0]!])).toEqual([second]);
    expect(new Set(pool.residents)).toEqual(new Set([adapters[0], adapters[1]]));
  });

  it('are refused with figures when they are too large', () => {
    const { pool } = deviceRunner({ adapterSlots: 2, adapterBytes: 240_000 });
    pool.check(adapters[1]!);
    expect(() => pool.check(adapters[0]!)).toThrow(
      /the adapter takes \d+ bytes; each of 2 adapters in memory may take 120000/,
    );
    expect(() => pool.slotsOf([adapters[0]!])).toThrow(/may take 120000/);
    expect(pool.residents).toEqual([]);
  });
});
