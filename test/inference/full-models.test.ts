/** Fully fine-tuned models take turns in one place of memory. */
import { describe, expect, it } from 'vitest';
import { FullModels } from '../../workers/inference/full-models.ts';
import type { EngineEvent, GenerationRequest } from '../../workers/inference/generation.ts';
import { plainSampling } from './fake-model.ts';

/** Hosts that answer each request after two steps, and a log of everything that happened. */
function create() {
  const log: string[] = [];
  const events: EngineEvent[] = [];
  const clock = { now: 0 };
  const models = new FullModels({
    open: (directory) => {
      log.push(`open ${directory}`);
      if (directory === 'broken') throw new Error('config.json is missing');
      let running: { id: number; left: number }[] = [];
      return {
        loop: {
          get idle() {
            return running.length === 0;
          },
          submit: (request) => void running.push({ id: request.id, left: 2 }),
          cancel: (id) => {
            running = running.filter((one) => one.id !== id);
          },
          step: () => {
            for (const one of running) if (--one.left === 0) log.push(`${directory} answers ${one.id}`);
            running = running.filter((one) => one.left > 0);
            return running.length > 0;
          },
          tell: () => {},
        },
        dispose: () => void log.push(`dispose ${directory}`),
      };
    },
    deliver: (batch) => void events.push(...batch),
    retryAfterMilliseconds: 1000,
    now: () => clock.now,
  });
  const ask = (id: number, name: string): void => {
    const request: GenerationRequest = {
      id,
      prompt: Int32Array.of(1),
      adapter: null,
      cacheSalt: '',
      sampling: plainSampling,
      seed: 1,
      grammar: null,
      scorePrompt: null,
    };
    models.submit(request, { modelId: `ft:${name}`, digest: name, directory: name });
  };
  const run = (): void => {
    for (let i = 0; models.step(); i++) if (i > 100) throw new Error('no end');
  };
  return { models, ask, run, log, events, clock };
}

describe('full models', () => {
  it('answers requests of one model together and changes the model only between them', () => {
    const { models, ask, run, log } = create();
    for (const [id, name] of [
      [1, 'a'],
      [2, 'a'],
      [3, 'b'],
      [4, 'a'],
    ] as const)
      ask(id, name);
    run();
    expect(log).toEqual([
      'open a',
      'a answers 1',
      'a answers 2',
      'dispose a',
      'open b',
      'b answers 3',
      'dispose b',
      'open a',
      'a answers 4',
    ]);
    expect(models.resident).toBe('a');
    ask(5, 'a');
    run();
    expect(log.at(-1)).toBe('a answers 5');
    expect(log.filter((line) => line === 'open a')).toHaveLength(2);
  });

  it('lets a waiting model have its turn however many more ask for the present one', () => {
    const { models, ask, log } = create();
    ask(1, 'a');
    ask(2, 'b');
    for (let i = 3; i < 12; i++) {
      models.step();
      ask(i, 'a');
    }
    expect(log.indexOf('b answers 2')).toBeLessThan(log.indexOf('a answers 3'));
    expect(log).toContain('b answers 2');
  });

  it('refuses every request of a model that cannot be loaded, goes on, and tries again later', () => {
    const { ask, run, log, events, clock } = create();
    for (const [id, name] of [
      [1, 'broken'],
      [2, 'a'],
      [3, 'broken'],
    ] as const)
      ask(id, name);
    run();
    expect(events.map(([id]) => id)).toEqual([1, 3]);
    expect(events[0]![1]).toMatchObject({
      type: 'error',
      error: { status: 503, code: 'model_unavailable', retry_after_seconds: 1 },
    });
    expect(log).toEqual(['open broken', 'open a', 'a answers 2']);
    ask(4, 'broken');
    run();
    expect(log).toHaveLength(3);
    clock.now = 1000;
    ask(5, 'broken');
    run();
    expect(log.at(-1)).toBe('open broken');
  });

  it('forgets cancelled requests, waiting or running', () => {
    const { models, ask, run, log } = create();
    for (const [id, name] of [
      [1, 'a'],
      [2, 'b'],
      [3, 'b'],
    ] as const)
      ask(id, name);
    models.step();
    models.cancel(1);
    models.cancel(2);
    run();
    expect(log).toEqual(['open a', 'dispose a', 'open b', 'b answers 3']);
  });
});
