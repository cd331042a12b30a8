/**
 * Decides, step by step, which tokens of which sequences run: token-level continuous batching (Orca, Yu et al. 2022)
 * with chunked prefill beside decode (Sarathi-Serve, Agrawal et al. 2024, arXiv:2403.02310) under a token budget.
 * The owner with the fewest running is next, then first come, first served; when blocks run out the youngest running
 * sequence is preempted and recomputed later.
 * Knows sequences and blocks; must not know tensors, models or connections.
 */
import type { KvBlocks } from './kv-blocks.ts';
import type { Sequence } from './sequence.ts';

export interface SchedulerOptions {
  /** Tokens run in one step at most; at least `maxRunning`, so that every decoding sequence moves every step. */
  tokenBudget: number;
  /** Sequences that hold blocks at the same time at most. */
  maxRunning: number;
  /** Asked before a sequence starts running: `wait` holds it and everything behind it, `drop` takes it out. */
  admit?: (sequence: Sequence) => 'run' | 'wait' | 'drop';
  /** Told when a sequence stops running for whatever reason (finished, cancelled, preempted). */
  retire?: (sequence: Sequence) => void;
}

/** Run tokens [start, start + count) of the sequence; `sample` when the last of them is its newest token. */
export interface ScheduledRun {
  sequence: Sequence;
  start: number;
  count: number;
  sample: boolean;
}

export class Scheduler {
  /** Both in order of arrival. */
  readonly waiting: Sequence[] = [];
  readonly running: Sequence[] = [];
  preemptions = 0;
  readonly #blocks: KvBlocks;
  readonly #options: SchedulerOptions;

  constructor(blocks: KvBlocks, options: SchedulerOptions) {
    if (options.tokenBudget < options.maxRunning)
      throw new Error('scheduler: tokenBudget must be >= maxRunning');
    this.#blocks = blocks;
    this.#options = options;
  }

  /** Queues a sequence. Throws when it could never fit, which its creator must have excluded. */
  add(sequence: Sequence): void {
    if (this.#blocks.blocksFor(sequence.maxLength) > this.#blocks.total) {
      throw new Error('scheduler: the sequence cannot fit into the key/value cache');
    }
    insertByArrival(this.waiting, sequence);
  }

  /** Takes a finished or cancelled sequence out and frees its blocks at once. */
  remove(sequence: Sequence): void {
    if (take(this.running, sequence)) this.#stopRunning(sequence);
    else take(this.waiting, sequence);
  }

  /** The next step: decode tokens and prefill chunks of running sequences, then new ones while there is room. */
  schedule(): ScheduledRun[] {
    const runs: ScheduledRun[] = [];
    // Decoding sequences are served in full first: a long prompt must not delay the tokens of others.
    let budget = this.#options.tokenBudget;
    let decoding = 0;
    for (const sequence of this.running) if (sequence.remaining === 1) decoding++;
    let prefillBudget = budget - decoding;
    const preemptionsBefore = this.preemptions;
    for (let i = 0; i < this.running.length; i++) {
      const sequence = this.running[i]!;
      const decode = sequence.remaining === 1;
      const count = decode ? 1 : Math.min(sequence.remaining, prefillBudget, sequence.maxChunk);
      if (count === 0) continue;
      if (!this.#makeRoom(sequence, sequence.computed + count)) break; // it was the youngest: preempted itself
      runs.push(run(sequence, count));
      budget -= count;
      if (!decode) prefillBudget -= count;
    }
    if (this.preemptions === preemptionsBefore) this.#admitWaiting(runs, Math.min(budget, prefillBudget));
    return runs;
  }

  /** Records that a step has run, before its new tokens are appended. */
  complete(runs: readonly ScheduledRun[]): void {
    for (const { sequence, count } of runs) this.#blocks.commit(sequence, count);
  }

  #admitWaiting(runs: ScheduledRun[], tokens: number): void {
    let budget = tokens;
    while (budget > 0 && this.waiting.length > 0 && this.running.length < this.#options.maxRunning) {
      const sequence = this.#next();
      const verdict = this.#options.admit?.(sequence) ?? 'run';
      if (verdict === 'wait') return;
      if (verdict === 'drop') {
        take(this.waiting, sequence);
        continue;
      }
      sequence.reused = this.#blocks.reusePrefix(sequence);
      // All known tokens must fit now, with a block for every other sequence to grow into; else two long prompts
      // could evict each other for ever.
      const spare = this.#blocks.free - this.#blocks.missing(sequence, sequence.length);
      if (spare < this.running.length || !this.#blocks.cover(sequence, sequence.length)) {
        this.#stopRunning(sequence);
        return;
      }
      take(this.waiting, sequence);
      insertByArrival(this.running, sequence);
      const count = Math.min(sequence.remaining, budget, sequence.maxChunk);
      runs.push(run(sequence, count));
      budget -= count;
    }
  }

  /** Of the owners that wait, one with the fewest running; of its sequences and of several such owners the oldest. */
  #next(): Sequence {
    const runningOf = new Map<string, number>();
    for (const { owner } of this.running) runningOf.set(owner, (runningOf.get(owner) ?? 0) + 1);
    let next = this.waiting[0]!;
    let fewest = runningOf.get(next.owner) ?? 0;
    for (const sequence of this.waiting) {
      if (fewest === 0) break;
      const own = runningOf.get(sequence.owner) ?? 0;
      if (own >= fewest) continue;
      fewest = own;
      next = sequence;
    }
    return next;
  }

  /** Blocks for `length` tokens of `sequence`, preempting the youngest; false when that was `sequence` itself. */
  #makeRoom(sequence: Sequence, length: number): boolean {
    while (!this.#blocks.cover(sequence, length)) {
      const victim = this.running.pop()!; // youngest, and not yet scheduled: schedule() walks oldest first
      this.#stopRunning(victim);
      insertByArrival(this.waiting, victim);
      this.preemptions++;
      if (victim === sequence) return false;
    }
    return true;
  }

  #stopRunning(sequence: Sequence): void {
    this.#blocks.release(sequence);
    this.#options.retire?.(sequence);
  }
}

function run(sequence: Sequence, count: number): ScheduledRun {
  return { sequence, start: sequence.computed, count, sample: count === sequence.remaining };
}

function insertByArrival(list: Sequence[], sequence: Sequence): void {
  let at = list.length;
  while (at > 0 && list[at - 1]!.arrival > sequence.arrival) at--;
  list.splice(at, 0, sequence);
}

function take(list: Sequence[], sequence: Sequence): boolean {
  const at = list.indexOf(sequence);
  if (at >= 0) list.splice(at, 1);
  return at >= 0;
}
