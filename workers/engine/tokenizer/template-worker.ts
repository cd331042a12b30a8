/**
 * Thread that renders one Jinja template. It exists so that a hostile template can be stopped: the caller waits with a
 * deadline and terminates the thread. Knows nothing of models, tokens or messages.
 */
import { type MessagePort, workerData } from 'node:worker_threads';
import { Template } from '@huggingface/jinja';

/** Shared word 0: number of answers written so far (the first says that the template is parsed). */
interface Setup {
  source: string;
  port: MessagePort;
  answered: Int32Array<SharedArrayBuffer>;
}

export type RenderAnswer = { texts: string[] } | { error: string };

const maxOutputChars = 8 * 1024 * 1024;
const { source, port, answered } = workerData as Setup;

function answer(value: RenderAnswer): void {
  port.postMessage(value);
  Atomics.add(answered, 0, 1);
  Atomics.notify(answered, 0);
}

function attempt(work: () => string[]): void {
  try {
    answer({ texts: work() });
  } catch (error) {
    answer({ error: error instanceof Error ? error.message : String(error) });
  }
}

let template: Template | undefined;
attempt(() => {
  template = new Template(source);
  return [];
});

port.on('message', (contexts: Record<string, unknown>[]) => {
  attempt(() =>
    contexts.map((context) => {
      if (template === undefined) throw new Error('the template does not parse');
      const text = template.render(context);
      if (text.length > maxOutputChars)
        throw new Error(`the output is longer than ${maxOutputChars} characters`);
      return text;
    }),
  );
});
