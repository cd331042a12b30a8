/**
 * Constrained choices as the engine sees them: opens a grammar state per choice, tells it each sampled token, and reads
 * the mask of the next one from shared memory. Masks are computed by other threads while the model runs.
 * Must not know the matcher, HTTP or logits.
 */
import type { MessagePort } from 'node:worker_threads';
import {
  BROKEN,
  type CompiledGrammar,
  type EngineStep,
  MASK_OFFSET,
  maskWords,
  REFUSED,
} from './messages.ts';

/** How often a state is built anew after its thread died before it is given up. */
const REOPENED_MAX = 2;
/** A mask that does not come for so long will not come: its thread could not be replaced. */
const LOST_MILLISECONDS = 30_000;

/** The grammar state of one choice. */
export interface GrammarState {
  /** Waits for the mask of the next token within the step's patience. */
  mask(): Int32Array | 'late' | 'broken';
  /** The token that was sampled under the last mask. */
  accept(token: number): void;
  close(): void;
}

interface Open {
  grammar: CompiledGrammar;
  tokens: number[];
  shared: Int32Array;
  reopened: number;
  /** When the next mask was asked for. */
  askedAt: number;
}

const nothing = (): EngineStep => ({ open: [], accept: [], close: [] });

export class GrammarStates {
  readonly #words: number;
  readonly #ports: (MessagePort | null)[] = [];
  readonly #pending: EngineStep[] = [];
  readonly #open = new Map<number, Open>();
  #nextId = 1;
  #deadline = 0;

  constructor(vocabSize: number) {
    this.#words = maskWords(vocabSize);
  }

  get open(): number {
    return this.#open.size;
  }

  /** The port to grammar thread `thread`; a new one means that the thread was replaced, and its states start again. */
  connect(thread: number, port: MessagePort): void {
    this.#ports[thread]?.close();
    this.#ports[thread] = port;
    this.#pending[thread] = nothing();
    for (const [id, state] of this.#open) {
      if (state.grammar.thread !== thread) continue;
      state.reopened++;
      this.#begin(id, state);
    }
    this.flush();
  }

  /** Masks that come later than this many milliseconds from now are left to the next step. */
  beginStep(patienceMilliseconds: number): void {
    this.#deadline = performance.now() + patienceMilliseconds;
  }

  start(grammar: CompiledGrammar): GrammarState {
    const id = this.#nextId++;
    const state: Open = { grammar, tokens: [], shared: new Int32Array(0), reopened: 0, askedAt: 0 };
    this.#open.set(id, state);
    this.#begin(id, state);
    return {
      mask: () => this.#mask(state),
      accept: (token) => {
        state.tokens.push(token);
        state.askedAt = performance.now();
        this.#step(grammar.thread).accept.push([id, token]);
      },
      close: () => {
        if (this.#open.delete(id)) this.#step(grammar.thread).close.push(id);
      },
    };
  }

  /** Sends what this step asked for; the threads work on it during the next. */
  flush(): void {
    this.#pending.forEach((step, thread) => {
      if (step.open.length + step.accept.length + step.close.length === 0) return;
      this.#ports[thread]?.postMessage(step);
      this.#pending[thread] = nothing();
    });
  }

  #begin(id: number, state: Open): void {
    const shared = new SharedArrayBuffer(4 * (MASK_OFFSET + this.#words));
    state.shared = new Int32Array(shared);
    state.askedAt = performance.now();
    const tokens = Int32Array.from(state.tokens);
    this.#step(state.grammar.thread).open.push({ state: id, source: state.grammar.source, tokens, shared });
  }

  #mask(state: Open): Int32Array | 'late' | 'broken' {
    const wanted = state.tokens.length + 1;
    for (;;) {
      const masks = Atomics.load(state.shared, 0);
      if (masks === wanted) return state.shared.subarray(MASK_OFFSET);
      if (masks === REFUSED) return 'broken';
      if (masks === BROKEN && state.reopened >= REOPENED_MAX) return 'broken';
      const now = performance.now();
      if (now - state.askedAt > LOST_MILLISECONDS) return 'broken';
      const left = this.#deadline - now;
      if (left <= 0) return 'late';
      Atomics.wait(state.shared, 0, masks, left);
      if (masks === BROKEN) return 'late'; // its thread ends and is replaced
    }
  }

  #step(thread: number): EngineStep {
    this.#pending[thread] ??= nothing();
    return this.#pending[thread];
  }
}
