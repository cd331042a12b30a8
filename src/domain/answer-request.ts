/**
 * How the service asks itself: a request to one of its own endpoints on behalf of a project, without a socket and a
 * key. Batches and model graders work through it, so their answers are what a client would have got.
 */
import type { Identity } from './keys/lookup.ts';

export interface InnerAnswer {
  status: number;
  /** The id under which the answer is in the log. */
  requestId: string;
  /** The JSON of the answer as text, an error's envelope included. */
  text: string;
  /** Seconds after which a refusal may be repeated; null when the answer does not say. */
  retryAfterSeconds: number | null;
  /** The answer says that asking again is no use. */
  isFinal: boolean;
}

/** Asks `endpoint` ("/v1/chat/completions"); rejects only when `signal` is aborted. */
export type AnswerRequest = (
  identity: Identity,
  endpoint: string,
  body: Record<string, unknown>,
  signal: AbortSignal,
) => Promise<InnerAnswer>;
