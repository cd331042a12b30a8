/**
 * Single rows that many callers want at once: while statements are under way the next keys gather, and one statement
 * answers them all. A read never joins a statement that began before it was asked for, so it sees every commit before
 * that. Knows nothing of tables.
 */

/** Statements under way at once: with one alone, a connection that hangs would hold up everybody. */
const AT_ONCE = 2;
/** Keys of one statement. */
const KEYS_MAX = 100;

interface Wanted<K, V> {
  key: K;
  /** Shared by all who asked for this key before its statement began. */
  answer: PromiseWithResolvers<V | null>;
}

/**
 * `load` gets distinct keys and resolves with their values in a Map under `nameOf(key)`; a key that is not in it has no
 * row. When it rejects, every reader of that statement is told so, and the next keys are loaded anew.
 */
export function gatheredReads<K, V>(
  nameOf: (key: K) => string,
  load: (keys: K[]) => Promise<ReadonlyMap<string, V>>,
): (key: K) => Promise<V | null> {
  const waiting = new Map<string, Wanted<K, V>>();
  let underWay = 0;

  const run = async (batch: [string, Wanted<K, V>][]) => {
    underWay++;
    try {
      const values = await load(batch.map(([, { key }]) => key));
      for (const [name, { answer }] of batch) answer.resolve(values.get(name) ?? null);
    } catch (error) {
      for (const [, { answer }] of batch) answer.reject(error);
    } finally {
      underWay--;
      next();
    }
  };
  const next = () => {
    if (underWay === AT_ONCE || waiting.size === 0) return;
    const batch = [...waiting].slice(0, KEYS_MAX);
    for (const [name] of batch) waiting.delete(name);
    void run(batch);
  };

  return (key) => {
    const name = nameOf(key);
    let wanted = waiting.get(name);
    if (!wanted) {
      wanted = { key, answer: Promise.withResolvers() };
      waiting.set(name, wanted);
      next();
    }
    return wanted.answer.promise;
  };
}
