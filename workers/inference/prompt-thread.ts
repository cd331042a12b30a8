/** The thread behind prompts.ts: loads the model's tokenizer and template, and answers one prompt after the other. */
import { parentPort, workerData } from 'node:worker_threads';
import { TemplateError } from '../engine/tokenizer/chat-template.ts';
import { loadTokenizer, type Tokenizer } from '../engine/tokenizer/load.ts';
import type { FromPromptThread, PromptAnswer, PromptRequest, ToPromptThread } from './prompts.ts';
import { toolFormatOf } from './tools/format.ts';

const { modelDirectory } = workerData as { modelDirectory: string };
const tokenizer = loadTokenizer(modelDirectory);
const port = parentPort!;

port.on('message', ({ id, ...request }: ToPromptThread) => {
  port.postMessage({ id, ...answer(tokenizer, request) } satisfies FromPromptThread);
});

function answer(model: Tokenizer, request: PromptRequest): PromptAnswer {
  try {
    if (request.kind === 'text') {
      return { tokens: Int32Array.from([...model.prefixIds, ...model.encode(request.text)]) };
    }
    const { template } = model;
    if (request.kind === 'tool-format') return { toolFormat: template && toolFormatOf(template) };
    if (!template) return { invalid: 'This model has no chat template, so it cannot answer messages.' };
    const { messages, tools, enableThinking } = request;
    const options = {
      addGenerationPrompt: true,
      ...(tools ? { tools } : {}),
      ...(enableThinking === null ? {} : { enableThinking }),
    };
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
