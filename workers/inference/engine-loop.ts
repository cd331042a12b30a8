/**
 * Generation, one step at a time: schedule → run → postprocess. Turns requests into sequences, samples into events.
 * On a device that works ahead, what a step has to tell is made while the next one runs; what decides about the next
 * step (end tokens, lengths, stop strings, grammars) never waits. Must not know threads, sockets or storage.
 */
import type { WireToken, WorkerError } from '../../src/inference/protocol.ts';
import { AdapterLoadError } from './adapters.ts';
import { type Outcome, runFitting } from './fitting-run.ts';
import {
  type Choice,
  createGeneration,
  doneEvent,
  type Generation,
  type GenerationRequest,
  startEvent,
  wireToken,
} from './generation.ts';
import type { EngineLoopOptions } from './loop-options.ts';
import type { RunItem } from './model-runner.ts';
import { Outbox, type Telling } from './outbox.ts';
import { grammarDeadEnd, grammarLost, modelNotFinite, modelUnavailable, outOfMemory } from './refusals.ts';
import type { Sample } from './sample.ts';
import { Sampler } from './sampling.ts';
import { type ScheduledRun, Scheduler } from './scheduler.ts';
import type { Sequence } from './sequence.ts';
import type { VisibleText } from './stop.ts';

/** Steps wait so long for masks that are not there yet: briefly beside others that need none. */
const PATIENCE_MILLISECONDS = { shared: 4, alone: 100 };
/** Time a step may spend on reading an adapter. */
const ADAPTER_MILLISECONDS = 2;

export class EngineLoop<A extends { dispose(): void }> {
  readonly scheduler: Scheduler;
  readonly #options: EngineLoopOptions<A>;
  readonly #generations = new Map<number, Generation>();
  readonly #choices = new Map<Sequence, Choice>();
  readonly #outbox: Outbox;
  readonly #refused: [Choice, AdapterLoadError][] = [];
  #arrivals = 0;

  constructor(options: EngineLoopOptions<A>) {
    this.#options = options;
    this.#outbox = new Outbox(options.deliver);
    this.scheduler = new Scheduler(options.blocks, {
      tokenBudget: options.tokenBudget,
      maxRunning: options.maxRunning,
      admit: (sequence) => this.#pinAdapter(sequence),
      retire: (sequence) => {
        if (sequence.adapter !== null) options.adapters.unpin(sequence.adapter);
      },
    });
  }

  get idle(): boolean {
    return this.#generations.size === 0;
  }

  submit(request: GenerationRequest): void {
    const { length } = request.prompt;
    if (length < 1 || length >= this.#options.contextLength)
      throw new Error('engine-loop: prompt outside the context');
    const generation = createGeneration(request, this.#options, () => this.#arrivals++);
    for (const choice of generation.open) {
      this.#choices.set(choice.sequence, choice);
      if (choice.index === 0) this.scheduler.add(choice.sequence);
    }
    this.#generations.set(request.id, generation);
  }

  /** Ends a generation without a word; its blocks are free when this returns. Unknown ids have already ended. */
  cancel(id: number): void {
    const generation = this.#generations.get(id);
    if (generation) this.#close(generation);
    this.#outbox.drop(id);
  }

  /** Tells now what the last step put off. */
  tell(): void {
    this.#outbox.tell();
  }

  /** Runs one step; false when there is nothing left to do. */
  step(): boolean {
    const { adapters, grammars, runner } = this.#options;
    adapters.work(ADAPTER_MILLISECONDS);
    const scheduled = this.scheduler.schedule();
    const refused = this.#refused.splice(0);
    if (scheduled.length + refused.length === 0 && this.scheduler.waiting.length > 0 && !adapters.loading) {
      throw new Error('engine-loop: work waits but none runs');
    }
    for (const [choice, error] of refused) this.#refuse(choice, error);
    const runs = scheduled.filter(({ sequence }) => this.#choices.has(sequence)); // a refused request takes all its choices along
    const items = runs.map((run) => this.#item(run));
    grammars.flush();
    const shared = runs.some(({ sequence }) => this.#choices.get(sequence)!.grammar === null);
    grammars.beginStep(PATIENCE_MILLISECONDS[shared ? 'shared' : 'alone']);
    const outcomes = runFitting(runner, items, () => this.tell());
    this.tell(); // where the runner did not: nothing was sampled, or nothing ran
    this.scheduler.complete(
      runs.flatMap((run, i) => {
        if (outcomes[i] === 'no-memory') return [];
        // Without a mask nothing was sampled: the last token is run again, with the mask there by then.
        return outcomes[i] === 'late' ? [{ ...run, count: run.count - 1 }] : [run];
      }),
    );
    for (const [i, run] of runs.entries()) this.#take(run, outcomes[i] ?? null);
    grammars.flush();
    if (!runner.worksAhead || this.idle) this.tell();
    return !this.idle;
  }

  /** What the runner gets for one scheduled run; the choice's sampler and grammar state begin here. */
  #item({ sequence, start, count, sample }: ScheduledRun): RunItem<A> {
    const choice = this.#choices.get(sequence)!;
    const { request, scores } = choice.generation;
    this.#start(choice);
    if (!choice.sampler) {
      choice.grammar = request.grammar && this.#options.grammars.start(request.grammar);
      choice.sampler = new Sampler(request.sampling, request.seed, choice.index, choice.grammar);
    }
    const isFull = sequence.length === sequence.maxLength; // asked for no token at all
    return {
      tokens: sequence.slice(start, start + count),
      start,
      blocks: sequence.blocks,
      adapterKey: sequence.adapter,
      adapter: sequence.adapter === null ? null : this.#options.adapters.get(sequence.adapter),
      sampler: sample && !isFull ? choice.sampler : null,
      score: scores && !scores.complete ? scores.take : null,
    };
  }

  /** What came of one run: a token, the end, a failure, or nothing yet. */
  #take({ sequence, sample: wasLast }: ScheduledRun, outcome: Outcome): void {
    const choice = this.#choices.get(sequence); // gone when another choice of its request has just failed
    if (!choice || outcome === 'late') return;
    const { generation } = choice;
    if (outcome === 'no-memory') {
      this.#fail(generation, outOfMemory());
      return;
    }
    if (!wasLast) return;
    this.#tellScores(generation);
    // The other choices begin: the first one's prompt is in the cache now.
    for (const follower of generation.followers.splice(0)) this.scheduler.add(follower.sequence);
    if (outcome === 'not-finite')
      this.#fail(generation, modelNotFinite(generation.request.adapter?.modelId ?? null));
    else if (outcome === 'dead-end') this.#fail(generation, grammarDeadEnd());
    else if (outcome === 'broken') this.#fail(generation, grammarLost());
    else if (outcome === null) this.#finish(choice, 'length');
    else this.#advance(choice, outcome);
  }

  #tellScores(generation: Generation): void {
    const { scores } = generation;
    if (!scores) return;
    this.#emit(generation, () => ({ type: 'prompt', tokens: scores.tokens() }));
    generation.scores = null;
  }

  #pinAdapter(sequence: Sequence): 'run' | 'wait' | 'drop' {
    if (sequence.adapter === null) return 'run';
    const choice = this.#choices.get(sequence)!;
    const { digest, directory } = choice.generation.request.adapter!;
    try {
      return this.#options.adapters.pin(digest, directory) ? 'run' : 'wait';
    } catch (error) {
      if (!(error instanceof AdapterLoadError)) throw error;
      this.#refused.push([choice, error]);
      return 'drop';
    }
  }

  #start({ generation, sequence }: Choice): void {
    if (generation.started) return;
    generation.started = true;
    generation.cachedTokens = sequence.reused;
    this.#emit(generation, () => startEvent(generation));
  }

  #advance(choice: Choice, sample: Sample): void {
    const { generation, sequence } = choice;
    const { vocabulary } = this.#options;
    generation.completionTokens++;
    if (vocabulary.eos.has(sample.token)) {
      this.#show(choice, () => choice.text.finish());
      this.#finish(choice, 'stop');
      return;
    }
    sequence.append(sample.token);
    choice.grammar?.accept(sample.token);
    const { logprobs } = generation.request.sampling;
    const isStopped = this.#show(choice, () =>
      choice.text.push(sample.token, logprobs ? wireToken(sample, vocabulary) : null),
    );
    if (isStopped) this.#finish(choice, 'stop');
    else if (sequence.length === sequence.maxLength) {
      this.#finish(choice, this.#show(choice, () => choice.text.finish()) ? 'stop' : 'length');
    }
  }

  /** Tells what becomes visible; true when that ends at a stop string, for which the text must be made now. */
  #show(choice: Choice, next: () => VisibleText<WireToken | null>): boolean {
    const { generation, index } = choice;
    const now = generation.request.sampling.stop.length > 0 ? next() : null;
    this.#emit(generation, () => {
      const { text, records } = now ?? next();
      const tokens = records.filter((record) => record !== null);
      return text === '' && tokens.length === 0 ? null : { type: 'delta', index, text, tokens };
    });
    return now?.stopped ?? false;
  }

  #finish(choice: Choice, reason: 'stop' | 'length'): void {
    const { generation } = choice;
    this.#emit(generation, () => ({ type: 'finish', index: choice.index, reason }));
    this.#drop(choice);
    if (generation.open.size > 0) return;
    this.#generations.delete(generation.request.id);
    this.#emit(generation, () => doneEvent(generation));
  }

  #refuse({ generation }: Choice, { message, retryAfterSeconds }: AdapterLoadError): void {
    this.#fail(generation, modelUnavailable(generation.request.adapter!.modelId, message, retryAfterSeconds));
  }

  #fail(generation: Generation, error: WorkerError): void {
    if (!this.#generations.has(generation.request.id)) return;
    this.#close(generation);
    this.#emit(generation, () => ({ type: 'error', error }));
  }

  #close(generation: Generation): void {
    this.#generations.delete(generation.request.id);
    for (const choice of generation.open) this.#drop(choice);
  }

  #drop(choice: Choice): void {
    choice.generation.open.delete(choice);
    choice.grammar?.close();
    this.#choices.delete(choice.sequence);
    this.scheduler.remove(choice.sequence);
  }

  #emit(generation: Generation, make: Telling): void {
    this.#outbox.add(generation.request.id, make);
  }
}
