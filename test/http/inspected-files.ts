// The service beside a worker that looks into files, with a chat file and a preference file uploaded: what the tests of
// estimates, validations and previews start from.
import { afterAll, beforeAll } from 'vitest';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { InspectingWorker } from './inspecting-worker.ts';

const PAIRS = Array.from({ length: 12 }, (_, i) =>
  JSON.stringify({
    input: { messages: [{ role: 'user', content: `Question ${i}?` }] },
    preferred_output: [{ role: 'assistant', content: 'Yes.' }],
    non_preferred_output: [{ role: 'assistant', content: 'I would not say so.' }],
  }),
).join('\n');

/** For a test file: registers the hooks; the ids of the files and the worker are there from beforeAll on. */
export function useInspectedFiles() {
  const holder = useApp();
  const startWorker = () => InspectingWorker.start(holder.database, { kind: 'disk', dir: holder.storageDir });
  const there = {} as { worker: InspectingWorker; chat: string; pairs: string };
  beforeAll(async () => {
    there.worker = await startWorker();
    there.chat = await holder.upload(TEN_ROWS);
    there.pairs = await holder.upload(PAIRS);
  });
  afterAll(() => there.worker?.stop());
  return {
    holder,
    there,
    startWorker,
    post: (path: string, json: object) => holder.call('POST', `/v1/fine_tuning/${path}`, { json }),
    /** A request about the chat file. */
    body: (more: object = {}) => ({ model: BASE_MODEL, training_file: there.chat, ...more }),
    /** The part of a request that makes it one about the preference file. */
    dpo: (hyperparameters: object = {}) => ({
      training_file: there.pairs,
      method: { type: 'dpo', dpo: { hyperparameters } },
    }),
  };
}
