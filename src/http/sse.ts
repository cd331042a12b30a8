/**
 * Server-sent events from an async iterator: written as fast as the client reads, kept alive while there is nothing to
 * say, and ended when the client leaves. Knows nothing of what the events say.
 */

const KEEP_ALIVE_MS = 15_000;
const encoder = new TextEncoder();
const KEEP_ALIVE = encoder.encode(': keep-alive\n\n');

/**
 * The response that sends every text of `source` as one `data:` event. `onLeave` is called when the client is gone
 * before the end. `source` must turn its own errors into events; one that throws cuts the connection.
 */
export function eventStream(
  source: AsyncIterator<string, void>,
  onLeave: () => void,
  keepAliveMilliseconds = KEEP_ALIVE_MS,
): Response {
  return byteStream(source, (text) => encoder.encode(`data: ${text}\n\n`), onLeave, keepAliveMilliseconds);
}

/** As eventStream, for a source whose items `encode` turns into whole events. */
export function byteStream<T>(
  source: AsyncIterator<T, void>,
  encode: (item: T) => Uint8Array,
  onLeave: () => void,
  keepAliveMilliseconds = KEEP_ALIVE_MS,
): Response {
  let beat: NodeJS.Timeout | undefined;
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      // One timer a stream, pushed back by every event. A reader that is behind needs no sign of life.
      beat = setInterval(() => {
        if ((controller.desiredSize ?? 0) > 0) controller.enqueue(KEEP_ALIVE);
      }, keepAliveMilliseconds);
    },
    async pull(controller) {
      try {
        const next = await source.next();
        if (!next.done) {
          beat?.refresh();
          controller.enqueue(encode(next.value));
          return;
        }
        clearInterval(beat);
        controller.close();
      } catch (error) {
        clearInterval(beat);
        throw error;
      }
    },
    async cancel() {
      clearInterval(beat);
      onLeave();
      await source.return?.();
    },
  });
  return new Response(body, {
    headers: {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    },
  });
}

/** Waits for the promise, but not longer. Throws what it throws in that time. */
export async function settledWithin(promise: Promise<unknown>, milliseconds: number): Promise<void> {
  promise.catch(() => {}); // if it fails later, whoever awaits it then is told
  await withinOr(promise, milliseconds);
}

/** The promise's value, or null when it takes longer. */
async function withinOr<T>(promise: Promise<T>, milliseconds: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, milliseconds, null);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
