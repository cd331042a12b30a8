/**
 * What the parts of constrained decoding say to each other: HTTP side → grammar thread (compile), engine ↔ grammar
 * thread (states). Types only.
 */

import type { MessagePort } from 'node:worker_threads';

/** A grammar to decode under: EBNF, or free text in which tags begin a grammar (xgrammar's structural tag, as JSON). */
export interface GrammarSource {
  kind: 'ebnf' | 'tags';
  text: string;
}

/** A grammar that some thread has compiled. */
export interface CompiledGrammar {
  source: GrammarSource;
  /** Number of the thread that holds it. */
  thread: number;
}

export type ToGrammarThread =
  | { type: 'compile'; id: number; source: GrammarSource }
  | { type: 'engine'; port: MessagePort };
export type FromGrammarThread =
  | { type: 'ready' }
  | { type: 'compiled'; id: number }
  | { type: 'refused'; id: number; why: string }
  | { type: 'states'; open: number };

/** One message per step: what the engine wants of its states. */
export interface EngineStep {
  open: { state: number; source: GrammarSource; tokens: Int32Array; shared: SharedArrayBuffer }[];
  accept: [state: number, token: number][];
  close: number[];
}

/**
 * A state's shared memory, in 32-bit words: [0] how many masks were written (after opening: 1), BROKEN when its thread
 * ends, REFUSED when a token did not fit and building the state anew would not help; then the mask, one bit per token, as it stands after [0] - 1 accepted tokens.
 */
export const MASK_OFFSET = 1;
export const BROKEN = -1;
export const REFUSED = -2;

export const maskWords = (vocabSize: number): number => Math.ceil(vocabSize / 32);
