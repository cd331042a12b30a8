/** A hanging engine thread: whoever waits for it is told, and the process is told to end; a slow one is left alone. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import type { GenerateEvent } from '../../src/inference/protocol.ts';
import {
  Engine,
  EngineHangs,
  type EngineOptions,
  type EngineRequest,
} from '../../workers/inference/engine.ts';

const OPTIONS: EngineOptions = {
  ...{ modelDirectory: '', device: 'cpu', threads: 1, kvCacheBytes: 0, blockSize: 1, prefixCache: false },
  ...{ maxRunning: 1, maxAdapters: 1, tokenBudget: 1 },
};
const REQUEST: EngineRequest = {
  ...{
    prompt: Int32Array.of(1),
    adapter: null,
    fullModel: null,
    cacheSalt: '',
    owner: 'p',
    seed: 1,
    grammar: null,
  },
  ...{ scorePrompt: null, sampling: {} as EngineRequest['sampling'] },
};

it('is noticed by the turns it does not make', async () => {
  const crashes: Error[] = [];
  const program = new URL('./hanging-engine.ts', import.meta.url);
  const engine = await Engine.start(OPTIONS, (error) => crashes.push(error), {
    stallMilliseconds: 400,
    program,
  });
  await sleep(800); // idle, and no turn is due
  const events: GenerateEvent[] = [];
  engine.generate(REQUEST, (event) => events.push(event));
  await sleep(800); // slow, and at work
  expect({ crashes, events }).toEqual({ crashes: [], events: [] });
  engine.generate(REQUEST, (event) => events.push(event));
  await vi.waitFor(() => expect(crashes).toHaveLength(1), { timeout: 10_000 });
  expect(crashes[0]).toBeInstanceOf(EngineHangs);
  expect(events).toEqual([1, 2].map(() => expect.objectContaining({ type: 'error' })));
  expect(events[0]).toMatchObject({ error: { status: 503, code: 'worker_lost' } });
  await engine.close();
});
