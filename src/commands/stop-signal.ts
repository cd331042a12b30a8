/** Ctrl-C and its relatives as something to wait for. */

/** Signals of one Ctrl-C may come twice (terminal and npm); a later one means: at once. */
const SECOND_SIGNAL_MS = 1_000;

export interface StopSignal {
  readonly asked: boolean;
  readonly first: Promise<void>;
  /** Somebody insisted. */
  readonly second: Promise<void>;
  ask(): void;
  forget(): void;
}

/** From here on SIGINT, SIGTERM and SIGHUP ask instead of killing. */
export function stopSignal(): StopSignal {
  const [first, second] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let askedAt: number | null = null;
  const ask = () => {
    if (askedAt === null) {
      askedAt = performance.now();
      first.resolve();
    } else if (performance.now() - askedAt > SECOND_SIGNAL_MS) second.resolve();
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, ask);
  return {
    get asked() {
      return askedAt !== null;
    },
    first: first.promise,
    second: second.promise,
    ask,
    forget: () => {
      for (const signal of signals) process.off(signal, ask);
    },
  };
}
