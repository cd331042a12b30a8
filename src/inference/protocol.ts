/**
 * The wire between the API and an inference worker: plain JSON over HTTP, answers as newline-delimited JSON.
 * Shared by both ends; it knows neither OpenAI's objects (the API maps them) nor tensors.
 *
 *   POST /generate   GenerateRequest → 200 application/x-ndjson of GenerateEvent, or a WorkerError body before any token
 *   GET  /health     WorkerHealth
 *
 * Every request carries `Authorization: Bearer <worker token>`. Closing the connection cancels the generation.
 */

/** A chat message as the model's template sees it; `content` is text (parts are joined by the API). */
export interface WireMessage {
  role: string;
  content: string | null;
  name?: string;
  tool_calls?: unknown[];
  tool_call_id?: string;
}

/** Where an adapter's files lie in object storage; `digest` is the sha256 of its manifest and names it in caches. */
export interface WireAdapter {
  model_id: string;
  digest: string;
  storage_prefix: string;
  files: { name: string; bytes: number; sha256: string }[];
}

export interface WireSampling {
  /** New tokens at most; null = up to the model's context. */
  max_tokens: number | null;
  temperature: number;
  top_p: number;
  n: number;
  stop: string[];
  seed: number | null;
  logprobs: boolean;
  top_logprobs: number;
  presence_penalty: number;
  frequency_penalty: number;
  logit_bias: Record<string, number>;
}

export interface GenerateRequest {
  request_id: string;
  base_model: string;
  adapter: WireAdapter | null;
  /** Who may share cached prompt prefixes: requests of different owners never do, since timing would tell. */
  cache_owner: string;
  messages: WireMessage[];
  tools: unknown[] | null;
  sampling: WireSampling;
}

export interface WireToken {
  token: string;
  bytes: number[];
  logprob: number;
  top_logprobs: { token: string; bytes: number[]; logprob: number }[];
}

export type GenerateEvent =
  | { type: 'start'; prompt_tokens: number; cached_tokens: number }
  | { type: 'delta'; index: number; text: string; tokens: WireToken[] }
  | { type: 'finish'; index: number; reason: 'stop' | 'length' }
  | { type: 'done'; prompt_tokens: number; completion_tokens: number; cached_tokens: number }
  | { type: 'error'; error: WorkerError };

/** An error in the catalogue's terms; `retry_after_seconds` accompanies 429 and 503. */
export interface WorkerError {
  status: 400 | 404 | 429 | 500 | 503;
  type: string;
  code: string | null;
  param: string | null;
  message: string;
  retry_after_seconds?: number;
}

export interface WorkerHealth {
  state: 'starting' | 'ready' | 'draining';
  base_model: string;
  device: string;
  running: number;
  waiting: number;
  adapters: string[];
}
