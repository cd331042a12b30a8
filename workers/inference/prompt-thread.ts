/** The thread behind prompts.ts: loads the model's tokenizer and template, and answers one prompt after the other. */
import { parentPort, workerData } from 'node:worker_threads';
import { TemplateError } from '../engine/tokenizer/chat-template.ts';
import { loadTokenizer, type Tokenizer } from '../engine/tokenizer/load.ts';
import type { FromPromptThread, PromptRequest, ToPromptThread } from './prompts.ts';

const { modelDirectory } = workerData as { modelDirectory: string };
const tokenizer = loadTokenizer(modelDirectory);
const port = parentPort!;

port.on('message', ({ id, ...request }: ToPromptThread) => {
  port.postMessage({ id, ...answer(tokenizer, request) } satisfies FromPromptThread);
});

function answer(
  { template }: Tokenizer,
  { messages, tools }: PromptRequest,
): { tokens: Int32Array } | { invalid: string } {
  if (!template) return { invalid: 'This model has no chat template, so it cannot answer messages.' };
  try {
    const options = { addGenerationPrompt: true, ...(tools ? { tools } : {}) };
    return {
      tokens: Int32Array.from(
        template.renderToIds(messages as Parameters<typeof template.renderToIds>[0], options),
      ),
    };
  } catch (error) {
    // RangeError: text that cannot be guarded against control tokens, or is nested too deeply.
    if (error instanceof TemplateError || error instanceof RangeError) return { invalid: error.message };
    throw error;
  }
}
