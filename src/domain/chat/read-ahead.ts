/**
 * Reads a worker's events ahead, to the first token or to the end, so that what fails until then can be made up for.
 */
import { WorkerLost, WorkerRefused } from '../../inference/client.ts';
import type { GenerateEvent } from '../../inference/protocol.ts';

/** Reads on to the first event that carries output, and returns all events again. */
export async function untilFirstToken(
  events: AsyncGenerator<GenerateEvent, void>,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const early: GenerateEvent[] = [];
  for (;;) {
    const next = await events.next();
    if (next.done) throw new WorkerLost('the worker ended without an answer', { underWay: true });
    if (next.value.type === 'error') throw new WorkerRefused(next.value.error);
    early.push(next.value);
    if (next.value.type !== 'start') return replay(early, events);
  }
}

/** Reads to the end, and returns all events again. */
export async function untilEnd(
  events: AsyncGenerator<GenerateEvent, void>,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const all: GenerateEvent[] = [];
  for await (const event of events) {
    if (event.type === 'error') throw new WorkerRefused(event.error);
    all.push(event);
  }
  return replay(all, events);
}

async function* replay(
  early: GenerateEvent[],
  rest: AsyncGenerator<GenerateEvent, void>,
): AsyncGenerator<GenerateEvent, void> {
  try {
    yield* early;
    yield* rest;
  } finally {
    await rest.return();
  }
}
