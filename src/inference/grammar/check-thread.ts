/** The thread that compiles schemas to see whether they can be. It ends with whoever started it. */
import { parentPort } from 'node:worker_threads';
import { schemaGrammar } from './json-schema.ts';
import { sharedBudgets } from './limits.ts';
import { SchemaRefusal } from './refusal.ts';
import type { CheckAnswer, CheckRequest } from './schema-checker.ts';

/** Schemas that come together may cost as much as this many. */
const SHARED = 4;

const port = parentPort!;
const send = (answer: CheckAnswer): void => port.postMessage(answer);

port.on('message', ({ schemas }: CheckRequest) => send(check(schemas)));
send('ready');

function check(schemas: CheckRequest['schemas']): CheckAnswer {
  const budgets = sharedBudgets(SHARED);
  for (const [index, { schema, options }] of schemas.entries()) {
    try {
      schemaGrammar(schema, { ...options, budget: budgets.next().value });
    } catch (error) {
      if (error instanceof SchemaRefusal) return { index, why: error.message };
      if (error instanceof RangeError) return { index, why: 'It nests too deeply.' };
      throw error; // ends the thread, which is an answer too
    }
  }
  return null;
}
