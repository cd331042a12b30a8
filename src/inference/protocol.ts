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

/** How the tools of a request may be used. */
export interface WireToolChoice {
  mode: 'none' | 'auto' | 'required';
  /** The only tools that may be called; null = any. */
  names: string[] | null;
  /** Whether one answer may hold several calls. */
  parallel: boolean;
}

/** What every text of the answer must be. */
export type WireFormat = { type: 'json_object' } | { type: 'json_schema'; schema: unknown; strict: boolean };

export interface GenerateRequest {
  request_id: string;
  base_model: string;
  /** The base model's files that the adapter was trained on; a worker that holds others refuses. Absent = not known. */
  base_digest?: string;
  adapter: WireAdapter | null;
  /** Who may share cached prompt prefixes: requests of different owners never do, since timing would tell. */
  cache_owner: string;
  messages: WireMessage[];
  tools: unknown[] | null;
  sampling: WireSampling;
  /** Only with tools; absent = auto, any, in parallel. */
  tool_choice?: WireToolChoice;
  response_format?: WireFormat;
  /** Text or tokens in place of messages and template; `messages` is empty then. */
  prompt?: string | number[];
  /** Alternatives per prompt token to report in a `prompt` event; absent = no such event. Only with `prompt`. */
  prompt_logprobs?: number;
  /** For templates that can switch their thinking on and off. */
  enable_thinking?: boolean;
}

export interface WireToken {
  token: string;
  bytes: number[];
  logprob: number;
  top_logprobs: { token: string; bytes: number[]; logprob: number }[];
}

/** A token of the prompt; the first one has no log-probability. */
export interface WirePromptToken {
  token: string;
  bytes: number[];
  logprob: number | null;
  top_logprobs: { token: string; bytes: number[]; logprob: number }[];
}

/**
 * Text and tool calls of a choice come in order. `tool_call` begins call number `call` of the choice, `tool_arguments`
 * goes on with its arguments' JSON text.
 */
export type GenerateEvent =
  | { type: 'start'; prompt_tokens: number; cached_tokens: number }
  | { type: 'prompt'; tokens: WirePromptToken[] }
  | { type: 'tool_call'; index: number; call: number; name: string }
  | { type: 'tool_arguments'; index: number; call: number; text: string }
  | { type: 'delta'; index: number; text: string; tokens: WireToken[] }
  | { type: 'finish'; index: number; reason: 'stop' | 'length' | 'tool_calls' }
  | { type: 'done'; prompt_tokens: number; completion_tokens: number; cached_tokens: number }
  | { type: 'error'; error: WorkerError };

/** The code of an error by which a worker says that its engine stopped while it worked on the request. */
export const WORKER_LOST = 'worker_lost';

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
