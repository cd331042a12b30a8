/**
 * Long answers end with the key they were asked with: a stream looks every second whether its key still lives (a look-up
 * that authenticate() answers from memory for 5 s), so a revoked or expired key keeps no stream open.
 */
import type { Dependencies } from '../domain/dependencies.ts';
import { authenticate } from '../domain/keys/lookup.ts';
import { type AppContext, logOf } from './context.ts';

const LOOK_MS = 1_000;

/** The items of `source`; when the key dies, `end` is called, which must make the source end. */
export function whileKeyLives<T>(
  c: AppContext,
  { database }: Pick<Dependencies, 'database'>,
  source: AsyncIterator<T, void>,
  end: () => void,
): AsyncIterator<T, void> {
  const header = c.req.header('authorization')?.trim();
  const log = logOf(c);
  const look = async () => {
    if (await authenticate(database, header)) return;
    log.info('stream ended with its key');
    clearInterval(timer);
    end();
  };
  // While the database is away nobody can say that the key is dead.
  const timer = setInterval(
    () => void look().catch((err) => log.warn({ err }, 'key not looked up')),
    LOOK_MS,
  );
  const over = <R>(result: R): R => {
    clearInterval(timer);
    return result;
  };
  return {
    // Not an async generator: one that waits for its next item cannot be told to return.
    next: () =>
      source.next().then(
        (next) => (next.done ? over(next) : next),
        (error) => {
          throw over(error);
        },
      ),
    return: async () => {
      over(null);
      await source.return?.();
      return { done: true, value: undefined };
    },
  };
}
