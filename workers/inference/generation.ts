/**
 * What is being generated: the request, its choices with their sequences and samplers, and what they have told so far,
 * with the events that tell it. Plain state of the engine loop; it decides nothing.
 */
import type { GenerateEvent, WireSampling, WireToken } from '../../src/inference/protocol.ts';
import type { CompiledGrammar } from './grammar/messages.ts';
import type { GrammarState } from './grammar/states.ts';
import { PromptScores } from './prompt-scores.ts';
import type { Sample } from './sample.ts';
import type { Sampler } from './sampling.ts';
import { Sequence } from './sequence.ts';
import { StopText, type TokenDecoder } from './stop.ts';

export interface GenerationRequest {
  id: number;
  /** Prompt tokens; at least 1 and fewer than the context length. */
  prompt: Int32Array;
  adapter: { modelId: string; digest: string; directory: string } | null;
  /** Prefix-cache partition: only requests with the same salt share blocks. */
  cacheSalt: string;
  /** Whose request it is: owners share what runs at a time. */
  owner?: string;
  sampling: WireSampling;
  /** Random numbers are a function of (seed, choice, position) alone. */
  seed: number;
  /** What the answer must be; null = anything. */
  grammar: CompiledGrammar | null;
  /** Alternatives to report for every prompt token; null = prompt tokens are not reported. */
  scorePrompt: number | null;
}

export type EngineEvent = [id: number, event: GenerateEvent];

/** What the loop needs to know of the tokenizer. */
export interface Vocabulary {
  eos: ReadonlySet<number>;
  createDecoder(): TokenDecoder;
  describe(token: number): { token: string; bytes: number[] };
}

export interface Choice {
  generation: Generation;
  index: number;
  sequence: Sequence;
  /** Made when the choice first runs, with the state of its grammar. */
  sampler: Sampler | null;
  grammar: GrammarState | null;
  text: StopText<WireToken | null>;
}

export interface Generation {
  request: GenerationRequest;
  /** Choices still being generated. */
  open: Set<Choice>;
  /** Choices that join once the prompt of the first is in the cache, to share its blocks. */
  followers: Choice[];
  started: boolean;
  scores: PromptScores | null;
  cachedTokens: number;
  completionTokens: number;
}

/** Prompt tokens scored in one step: each needs a row of logits. */
const SCORED_CHUNK = 32;

/** A generation with all of its choices, none of them begun; `arrival` numbers them in the order of service. */
export function createGeneration(
  request: GenerationRequest,
  { vocabulary, contextLength }: { vocabulary: Vocabulary; contextLength: number },
  arrival: () => number,
): Generation {
  const { prompt, sampling, scorePrompt } = request;
  const generation: Generation = {
    request,
    open: new Set(),
    followers: [],
    started: false,
    scores: scorePrompt === null ? null : new PromptScores(prompt, scorePrompt, vocabulary),
    cachedTokens: 0,
    completionTokens: 0,
  };
  for (let index = 0; index < sampling.n; index++) {
    const sequence = new Sequence({
      arrival: arrival(),
      prompt,
      maxLength: Math.min(contextLength, prompt.length + (sampling.max_tokens ?? contextLength)),
      cacheSalt: request.cacheSalt,
      owner: request.owner,
      adapter: request.adapter?.digest ?? null,
      ...(generation.scores ? { maxChunk: SCORED_CHUNK } : {}),
    });
    const text = new StopText<WireToken | null>(vocabulary.createDecoder(), sampling.stop);
    const choice = { generation, index, sequence, sampler: null, grammar: null, text };
    generation.open.add(choice);
    if (index > 0) generation.followers.push(choice);
  }
  return generation;
}

/** Told once, when the first choice begins. */
export function startEvent({ request, cachedTokens }: Generation): GenerateEvent {
  return { type: 'start', prompt_tokens: request.prompt.length, cached_tokens: cachedTokens };
}

/** Told once, after the last choice has finished. */
export function doneEvent({ request, completionTokens, cachedTokens }: Generation): GenerateEvent {
  return {
    type: 'done',
    prompt_tokens: request.prompt.length,
    completion_tokens: completionTokens,
    cached_tokens: cachedTokens,
  };
}

/** A sampled token with its log probability and the likeliest others. */
export function wireToken(sample: Sample, { describe }: Vocabulary): WireToken {
  return {
    ...describe(sample.token),
    logprob: sample.logprob,
    top_logprobs: sample.top.map(([token, logprob]) => ({ ...describe(token), logprob })),
  };
}
