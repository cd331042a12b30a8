/** What runs in each step: budget, order, preemption, and that no block is ever lost. Without a model. */
import { describe, expect, it } from 'vitest';
import { KvBlocks } from '../../workers/inference/kv-blocks.ts';
import { type ScheduledRun, Scheduler, type SchedulerOptions } from '../../workers/inference/scheduler.ts';
import { Sequence } from '../../workers/inference/sequence.ts';

function create(o: Partial<SchedulerOptions> & { blocks?: number; prefixCache?: boolean } = {}) {
  const { blocks: total = 64, prefixCache = false, ...options } = o;
  const blocks = new KvBlocks({ blocks: total, blockSize: 4, prefixCache });
  const scheduler = new Scheduler(blocks, { tokenBudget: 16, maxRunning: 8, ...options });
  let arrivals = 0;
  const add = (
    promptLength: number,
    completion = 8,
    first = arrivals * 1000,
    salt = 'a',
    owner?: string,
  ): Sequence => {
    const prompt = Int32Array.from({ length: promptLength }, (_, i) => first + i);
    const sequence = new Sequence({
      arrival: arrivals++,
      prompt,
      maxLength: promptLength + completion,
      cacheSalt: salt,
      owner,
      adapter: null,
    });
    scheduler.add(sequence);
    return sequence;
  };
  return { blocks, scheduler, add };
}

/** Runs one step with a "model" that samples 1, 2, 3, …; finished sequences leave. */
function step(scheduler: Scheduler): ScheduledRun[] {
  const runs = scheduler.schedule();
  scheduler.complete(runs);
  for (const { sequence, sample } of runs) {
    if (!sample) continue;
    sequence.append(sequence.completionLength + 1);
    if (sequence.length === sequence.maxLength) scheduler.remove(sequence);
  }
  return runs;
}

const counts = (runs: ScheduledRun[]): [Sequence, number, boolean][] =>
  runs.map(({ sequence, count, sample }) => [sequence, count, sample]);

describe('scheduler', () => {
  it('prefills, then decodes one token a step', () => {
    const { scheduler, add } = create();
    const s = add(5, 2);
    expect(counts(step(scheduler))).toEqual([[s, 5, true]]);
    expect(counts(step(scheduler))).toEqual([[s, 1, true]]);
    expect(step(scheduler)).toEqual([]);
  });

  it('cuts a long prompt into chunks and samples only after the last one', () => {
    const { scheduler, add } = create();
    const s = add(40);
    expect(counts(step(scheduler))).toEqual([[s, 16, false]]);
    expect(counts(step(scheduler))).toEqual([[s, 16, false]]);
    expect(counts(step(scheduler))).toEqual([[s, 8, true]]);
  });

  it('never lets a long prompt delay a decoding sequence', () => {
    const { scheduler, add } = create();
    const first = add(3);
    step(scheduler);
    const long = add(100);
    for (let i = 0; i < 5; i++) {
      expect(counts(step(scheduler))).toEqual([
        [first, 1, true],
        [long, 15, false],
      ]);
    }
  });

  it('admits a later short prompt into what is left of the budget', () => {
    const { scheduler, add } = create();
    const [a, b] = [add(10), add(10)];
    expect(counts(step(scheduler))).toEqual([
      [a, 10, true],
      [b, 6, false],
    ]);
    expect(counts(step(scheduler))).toEqual([
      [a, 1, true],
      [b, 4, true],
    ]);
  });

  it('runs no more sequences than maxRunning, in order of arrival', () => {
    const { scheduler, add } = create({ maxRunning: 2 });
    const [a, b, c] = [add(2, 2), add(2, 3), add(2, 2)];
    expect(step(scheduler).map((run) => run.sequence)).toEqual([a, b]);
    step(scheduler);
    expect(step(scheduler).map((run) => run.sequence)).toEqual([b, c]);
  });

  it('owners share what runs, however many sequences one of them has waiting', () => {
    const { scheduler, add } = create({ maxRunning: 4 });
    const of = (owner: string, count: number) =>
      Array.from({ length: count }, () => add(2, 3, undefined, owner, owner));
    const loud = of('loud', 9);
    const owners = () =>
      step(scheduler)
        .map((run) => run.sequence.owner)
        .sort();
    expect(owners()).toEqual(['loud', 'loud', 'loud', 'loud']); // nobody else is there
    const [quiet] = [of('quiet', 3), of('other', 1)];
    step(scheduler);
    step(scheduler);
    expect(owners()).toEqual(['loud', 'loud', 'other', 'quiet']);
    expect(scheduler.waiting).toEqual([...loud.slice(6), ...quiet.slice(1)]);
    for (let i = 0; i < 2; i++) step(scheduler);
    expect(owners()).toEqual(['loud', 'loud', 'quiet', 'quiet']);
    while (scheduler.running.length + scheduler.waiting.length > 0) step(scheduler);
    expect(loud.map((sequence) => sequence.completionLength)).toEqual(loud.map(() => 3));
  });

  it('preempts the youngest when blocks run out, and finishes everything', () => {
    const { blocks, scheduler, add } = create({ blocks: 8 });
    const all = [add(8, 16), add(8, 16)]; // each grows to 6 blocks; 8 exist
    const order: Sequence[] = [];
    for (let i = 0; i < 100 && all.some((s) => s.length < s.maxLength); i++) {
      for (const { sequence } of step(scheduler)) {
        if (sequence.length === sequence.maxLength) order.push(sequence);
      }
      blocks.verify(scheduler.running);
    }
    expect(scheduler.preemptions).toBeGreaterThan(0);
    expect(order).toEqual(all);
    expect(blocks.free).toBe(8);
  });

  it('recomputes a preempted sequence from its own tokens, without sampling any of them again', () => {
    const { scheduler, add } = create({ blocks: 6 });
    const [a, b] = [add(8, 12), add(4, 12)];
    while (b.computed !== 0 || b.completionLength === 0) step(scheduler);
    const said = [...b.slice(0, b.length)];
    while (a.length < a.maxLength) step(scheduler);
    while (b.length < b.maxLength) step(scheduler);
    expect([...b.slice(0, said.length)]).toEqual(said);
    expect([...b.slice(4, 16)]).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
  });

  it('frees the blocks of a cancelled sequence at once, running or waiting', () => {
    const { blocks, scheduler, add } = create({ maxRunning: 1 });
    const [a, b] = [add(8), add(8)];
    step(scheduler);
    scheduler.remove(a);
    expect(blocks.free).toBe(64);
    scheduler.remove(b);
    expect(step(scheduler)).toEqual([]);
  });

  it('refuses a sequence that could never fit', () => {
    const { add } = create({ blocks: 4 });
    expect(() => add(16, 1)).toThrow(/cannot fit/);
  });

  it('asks before it admits: wait holds the queue, drop passes over', () => {
    const verdicts = new Map<Sequence, 'run' | 'wait' | 'drop'>();
    const retired: Sequence[] = [];
    const { scheduler, add } = create({
      admit: (s) => verdicts.get(s) ?? 'run',
      retire: (s) => retired.push(s),
    });
    const [a, b, c] = [add(2), add(2), add(2)];
    verdicts.set(a, 'drop').set(b, 'wait');
    expect(step(scheduler)).toEqual([]);
    verdicts.set(b, 'run');
    expect(step(scheduler).map((run) => run.sequence)).toEqual([b, c]);
    scheduler.remove(b);
    expect(retired).toEqual([b]);
  });

  it('reuses the cached prefix of a preempted or repeated prompt', () => {
    const { scheduler, add } = create({ prefixCache: true });
    const a = add(13, 1, 0);
    step(scheduler);
    expect(a.length).toBe(14);
    const again = add(13, 1, 0);
    expect(counts(step(scheduler))).toEqual([[again, 1, true]]);
    expect(again.reused).toBe(12);
  });
});

/** Small linear congruential generator: the same schedule every run. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe('scheduler under random load', () => {
  for (const prefixCache of [true, false]) {
    it(`keeps every invariant, prefix cache ${prefixCache ? 'on' : 'off'}`, () => {
      let preemptions = 0;
      for (let seed = 1; seed <= 60; seed++) {
        const random = generator(seed);
        const total = 6 + random(10);
        const pinned = new Set<Sequence>();
        const { blocks, scheduler, add } = create({
          blocks: total,
          prefixCache,
          tokenBudget: 4 + random(12),
          maxRunning: 1 + random(4),
          admit: (s) => {
            if (pinned.has(s)) throw new Error('admitted twice');
            pinned.add(s);
            return 'run';
          },
          retire: (s) => {
            if (!pinned.delete(s)) throw new Error('retired without being admitted');
          },
        });
        const live = new Set<Sequence>();
        let idle = 0;
        for (let i = 0; i < 150 || live.size > 0; i++) {
          if (i > 5000) throw new Error(`seed ${seed}: no progress`);
          if (i < 150 && random(3) === 0) {
            const prompt = 1 + random(total * 2);
            live.add(
              add(prompt, 1 + random(total * 2), random(3) * 7, `salt${random(2)}`, `owner${random(3)}`),
            );
          }
          if (random(12) === 0 && live.size > 0) {
            const victim = [...live][random(live.size)]!;
            scheduler.remove(victim);
            live.delete(victim);
          }
          const runs = step(scheduler);
          const tokens = runs.reduce((sum, run) => sum + run.count, 0);
          expect(new Set(runs.map((run) => run.sequence)).size).toBe(runs.length);
          expect(tokens).toBeLessThanOrEqual(16);
          for (const s of [...live]) if (s.length === s.maxLength) live.delete(s);
          blocks.verify(scheduler.running);
          expect(new Set(scheduler.running)).toEqual(pinned);
          expect(scheduler.running.length + scheduler.waiting.length).toBe(live.size);
          idle = runs.length === 0 && live.size > 0 ? idle + 1 : 0;
          expect(idle).toBeLessThan(2); // one step may go by right after a preemption
        }
        preemptions += scheduler.preemptions;
        expect(blocks.free).toBe(total);
      }
      expect(preemptions).toBeGreaterThan(100);
    });
  }
});
