/**
 * Generation, one step at a time: schedule → run → postprocess. Turns requests into sequences, samples into events.
 * Knows the scheduler, the runner and stop rules; must not know threads, sockets or storage.
 */
import type { GenerateEvent, WireSampling, WireToken, WorkerError } from '../../src/inference/protocol.ts';
import { AdapterLoadError, type ResidentAdapters } from './adapters.ts';
import type { KvBlocks } from './kv-blocks.ts';
import type { Runner } from './model-runner.ts';
import { modelNotFinite, modelUnavailable } from './refusals.ts';
import { Sampler } from './sampling.ts';
import { Scheduler } from './scheduler.ts';
import { Sequence } from './sequence.ts';
import { StopText, type TokenDecoder, type VisibleText } from './stop.ts';

export interface GenerationRequest {
  id: number;
  /** Prompt tokens; at least 1 and fewer than the context length. */
  prompt: Int32Array;
  adapter: { modelId: string; digest: string; directory: string } | null;
  /** Prefix-cache partition: only requests with the same salt share blocks. */
  cacheSalt: string;
  sampling: WireSampling;
  /** Random numbers are a function of (seed, choice, position) alone. */
  seed: number;
}

export type EngineEvent = [id: number, event: GenerateEvent];

/** What the loop needs to know of the tokenizer. */
export interface Vocabulary {
  eos: ReadonlySet<number>;
  createDecoder(): TokenDecoder;
  describe(token: number): { token: string; bytes: number[] };
}

export interface EngineLoopOptions<A extends { dispose(): void }> {
  blocks: KvBlocks;
  runner: Runner<A>;
  adapters: ResidentAdapters<A>;
  vocabulary: Vocabulary;
  contextLength: number;
  tokenBudget: number;
  maxRunning: number;
  /** Takes the events of one step; called once a step, not at all when there are none. */
  deliver: (events: EngineEvent[]) => void;
}

interface Choice {
  generation: Generation;
  index: number;
  sequence: Sequence;
  sampler: Sampler;
  text: StopText<WireToken | null>;
}

interface Generation {
  request: GenerationRequest;
  /** Choices still being generated. */
  open: Set<Choice>;
  /** Choices that join once the prompt of the first is in the cache, to share its blocks. */
  followers: Choice[];
  started: boolean;
  cachedTokens: number;
  completionTokens: number;
}

export class EngineLoop<A extends { dispose(): void }> {
  readonly scheduler: Scheduler;
  readonly #options: EngineLoopOptions<A>;
  readonly #generations = new Map<number, Generation>();
  readonly #choices = new Map<Sequence, Choice>();
  #events: EngineEvent[] = [];
  readonly #refused: [Choice, AdapterLoadError][] = [];
  #arrivals = 0;

  constructor(options: EngineLoopOptions<A>) {
    this.#options = options;
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
    const { prompt, sampling } = request;
    const { contextLength } = this.#options;
    if (prompt.length < 1 || prompt.length >= contextLength)
      throw new Error('engine-loop: prompt outside the context');
    const generation: Generation = {
      request,
      open: new Set(),
      followers: [],
      started: false,
      cachedTokens: 0,
      completionTokens: 0,
    };
    for (let index = 0; index < sampling.n; index++) {
      const sequence = new Sequence({
        arrival: this.#arrivals++,
        prompt,
        maxLength: Math.min(contextLength, prompt.length + (sampling.max_tokens ?? contextLength)),
        cacheSalt: request.cacheSalt,
        adapter: request.adapter?.digest ?? null,
      });
      const text = new StopText<WireToken | null>(this.#options.vocabulary.createDecoder(), sampling.stop);
      const choice = {
        generation,
        index,
        sequence,
        sampler: new Sampler(sampling, request.seed, index),
        text,
      };
      generation.open.add(choice);
      this.#choices.set(sequence, choice);
      if (index > 0) generation.followers.push(choice);
      else this.scheduler.add(sequence);
    }
    this.#generations.set(request.id, generation);
  }

  /** Ends a generation without a word; its blocks are free when this returns. Unknown ids have already ended. */
  cancel(id: number): void {
    const generation = this.#generations.get(id);
    if (generation) this.#close(generation);
  }

  /** Runs one step; false when there is nothing left to do. */
  step(): boolean {
    const scheduled = this.scheduler.schedule();
    const refused = this.#refused.splice(0);
    if (scheduled.length === 0 && refused.length === 0 && this.scheduler.waiting.length > 0) {
      throw new Error('engine-loop: work waits but none runs');
    }
    for (const [choice, error] of refused) this.#refuse(choice, error);
    const runs = scheduled.filter(({ sequence }) => this.#choices.has(sequence)); // a refused request takes all its choices along
    const items = runs.map(({ sequence, start, count, sample }) => {
      const choice = this.#choices.get(sequence)!;
      this.#start(choice);
      return {
        tokens: sequence.slice(start, start + count),
        start,
        blocks: sequence.blocks,
        adapterKey: sequence.adapter,
        adapter: sequence.adapter === null ? null : this.#options.adapters.get(sequence.adapter),
        sampler: sample ? choice.sampler : null,
      };
    });
    const samples = items.length === 0 ? [] : this.#options.runner.run(items);
    this.scheduler.complete(runs);
    runs.forEach(({ sequence }, i) => {
      const sample = samples[i];
      const choice = this.#choices.get(sequence); // gone when another choice of its request has just failed
      if (!sample || !choice) return;
      this.#release(choice.generation);
      if (sample === 'not-finite')
        this.#fail(choice.generation, modelNotFinite(choice.generation.request.adapter?.modelId ?? null));
      else this.#advance(choice, sample);
    });
    if (this.#events.length > 0) this.#options.deliver(this.#events.splice(0));
    return !this.idle;
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
    this.#emit(generation, {
      type: 'start',
      prompt_tokens: sequence.promptLength,
      cached_tokens: generation.cachedTokens,
    });
  }

  /** Lets the other choices begin: the first one's prompt is in the cache now. */
  #release(generation: Generation): void {
    for (const choice of generation.followers.splice(0)) this.scheduler.add(choice.sequence);
  }

  #advance(choice: Choice, sample: Exclude<ReturnType<Sampler['sample']>, 'not-finite'>): void {
    const { generation, sequence } = choice;
    const { eos, describe } = this.#options.vocabulary;
    generation.completionTokens++;
    if (eos.has(sample.token)) {
      const rest = choice.text.finish();
      this.#emitText(choice, rest);
      this.#finish(choice, 'stop');
      return;
    }
    sequence.append(sample.token);
    const record: WireToken | null = generation.request.sampling.logprobs
      ? {
          ...describe(sample.token),
          logprob: sample.logprob,
          top_logprobs: sample.top.map(([token, logprob]) => ({ ...describe(token), logprob })),
        }
      : null;
    const visible = choice.text.push(sample.token, record);
    this.#emitText(choice, visible);
    if (visible.stopped) this.#finish(choice, 'stop');
    else if (sequence.length === sequence.maxLength) {
      const rest = choice.text.finish();
      this.#emitText(choice, rest);
      this.#finish(choice, rest.stopped ? 'stop' : 'length');
    }
  }

  #emitText(choice: Choice, visible: VisibleText<WireToken | null>): void {
    const tokens = visible.records.filter((record) => record !== null);
    if (visible.text === '' && tokens.length === 0) return;
    this.#emit(choice.generation, { type: 'delta', index: choice.index, text: visible.text, tokens });
  }

  #finish(choice: Choice, reason: 'stop' | 'length'): void {
    const { generation } = choice;
    this.#emit(generation, { type: 'finish', index: choice.index, reason });
    this.#drop(choice);
    if (generation.open.size > 0) return;
    this.#generations.delete(generation.request.id);
    this.#emit(generation, {
      type: 'done',
      prompt_tokens: generation.request.prompt.length,
      completion_tokens: generation.completionTokens,
      cached_tokens: generation.cachedTokens,
    });
  }

  #refuse({ generation }: Choice, { message, retryAfterSeconds }: AdapterLoadError): void {
    this.#fail(generation, modelUnavailable(generation.request.adapter!.modelId, message, retryAfterSeconds));
  }

  #fail(generation: Generation, error: WorkerError): void {
    if (!this.#generations.has(generation.request.id)) return;
    this.#close(generation);
    this.#emit(generation, { type: 'error', error });
  }

  #close(generation: Generation): void {
    this.#generations.delete(generation.request.id);
    for (const choice of generation.open) this.#drop(choice);
  }

  #drop(choice: Choice): void {
    choice.generation.open.delete(choice);
    this.#choices.delete(choice.sequence);
    this.scheduler.remove(choice.sequence);
  }

  #emit(generation: Generation, event: GenerateEvent): void {
    this.#events.push([generation.request.id, event]);
  }
}
