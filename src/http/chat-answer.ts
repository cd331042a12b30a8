/**
 * Gathers a generation's events into what each choice said: text, tool calls, tokens, why it ended. Knows events and
 * nothing of OpenAI's objects.
 */
import { generationError } from '../domain/chat/ask-workers.ts';
import type { Completion } from '../domain/chat/complete.ts';
import { newId } from '../ids.ts';
import { WorkerRefused } from '../inference/client.ts';
import type { GenerateEvent, WirePromptToken, WireToken } from '../inference/protocol.ts';

export interface GatheredCall {
  id: string;
  name: string;
  arguments: string;
}

export interface GatheredChoice {
  text: string;
  calls: GatheredCall[];
  tokens: WireToken[];
  reason: 'stop' | 'length' | 'tool_calls';
}

export type DoneEvent = Extract<GenerateEvent, { type: 'done' }>;

export class GatheredAnswer {
  readonly choices: GatheredChoice[];
  prompt: WirePromptToken[] = [];
  done: DoneEvent | null = null;
  readonly #keepTokens: boolean;

  constructor(n: number, keepTokens: boolean) {
    this.#keepTokens = keepTokens;
    this.choices = Array.from({ length: n }, () => ({ text: '', calls: [], tokens: [], reason: 'stop' }));
  }

  add(event: GenerateEvent): void {
    if (event.type === 'prompt') this.prompt = event.tokens;
    else if (event.type === 'done') this.done = event;
    if (!('index' in event)) return;
    const choice = this.choices[event.index];
    if (!choice) throw new Error(`A worker spoke of choice ${event.index}, which nobody asked for.`);
    if (event.type === 'finish') choice.reason = event.reason;
    else if (event.type === 'tool_call') {
      choice.calls.push({ id: newId('call_'), name: event.name, arguments: '' });
    } else if (event.type === 'tool_arguments') choice.calls[event.call]!.arguments += event.text;
    else {
      choice.text += event.text;
      if (this.#keepTokens) choice.tokens.push(...event.tokens);
    }
  }
}

/** Reads a generation to its end. Throws ApiError when the worker fails on the way. */
export async function gather(
  completion: Completion,
  { n, keepTokens }: { n: number; keepTokens: boolean },
): Promise<GatheredAnswer> {
  const answer = new GatheredAnswer(n, keepTokens);
  try {
    for await (const event of completion.events) {
      if (event.type === 'error') throw new WorkerRefused(event.error);
      answer.add(event);
    }
  } catch (error) {
    throw generationError(error) ?? error;
  }
  return answer;
}
