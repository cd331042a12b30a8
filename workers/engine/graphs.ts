/**
 * Recording ops once and running them again: asking for an op costs more than a small op itself. The
 * recorded ops read and write the same tensors every time, so inputs and results must live outside; memory of tensors
 * made inside is shared by all recordings of a device. Knows no model.
 */
import type { Device } from './device.ts';
import { scope } from './tensor.ts';

export interface Replay {
  /** Runs the recorded ops on what their tensors hold now. @throws an op's error; ops before it may have run */
  run(): void;
  dispose(): void;
}

export interface Recorder {
  /**
   * Records the ops of `work` without running them. The tensors they use stay alive with the replay, and so does the
   * memory of those made inside. `work` may neither read nor write a tensor from the host, and should have run once
   * before, so that every choice has been made. @throws what `work` throws, with nothing recorded
   */
  record(work: () => void): Replay;
}

/** The device's recorder. */
export function recorderOf({ kind, native }: Device): Recorder {
  return {
    record(work) {
      native.captureBegin(kind);
      try {
        work();
      } catch (error) {
        try {
          native.graphFree(native.captureEnd());
        } catch {
          // A recording that was broken cannot be ended well; the first error says why.
        }
        throw error;
      }
      const graph = native.captureEnd();
      return { run: () => native.graphLaunch(graph), dispose: () => native.graphFree(graph) };
    },
  };
}

/** What a device says when it will not record: not permitted, or no room beside what runs op by op. */
const REFUSALS: ReadonlySet<string> = new Set(['LATHE_CUDA_ERROR', 'LATHE_OUT_OF_MEMORY']);

interface Entry<S> {
  /** The tensors outside: inputs and results. */
  shape: S;
  replay: Replay | null;
}

/**
 * The same work in a few shapes: op by op the first time a shape comes, recorded the second time, replayed from then on.
 * So a shape that does not come again is never recorded. Without a recorder always op by op, and from then on where the
 * device refuses to record, with a warning: the results are the same, and the recordings' memory is free.
 */
export class RecordedShapes<S extends { dispose(): void }> {
  #recorder: Recorder | null;
  readonly #most: number;
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry<S>>();

  /** @param most shapes remembered: each recorded one keeps its graph */
  constructor(recorder: Recorder | null, most: number) {
    this.#recorder = recorder;
    this.#most = most;
  }

  /** Recorded shapes there are now. */
  get recorded(): number {
    return [...this.#entries.values()].filter(({ replay }) => replay !== null).length;
  }

  /**
   * Runs `work` on the shape under `key`, made by `create` where it is new; what `work` makes is disposed.
   * @throws what they throw; the shape is forgotten then
   */
  run(key: string, create: () => S, work: (shape: S) => void): S {
    const known = this.#entries.get(key);
    const entry = known ?? { shape: create(), replay: null };
    this.#entries.delete(key);
    const body = () => scope(() => work(entry.shape));
    try {
      // The first run of a shape makes every choice that recording must find made.
      if (known === undefined || this.#recorder === null || !this.#replay(this.#recorder, entry, body))
        body();
    } catch (error) {
      disposeEntry(entry);
      throw error;
    }
    this.#entries.set(key, entry);
    this.forget(this.#most);
    return entry.shape;
  }

  /** Whether the work could be recorded and was replayed; if not, none of it has run. */
  #replay(recorder: Recorder, entry: Entry<S>, body: () => void): boolean {
    try {
      entry.replay ??= recorder.record(body);
    } catch (error) {
      if (!REFUSALS.has((error as { code?: string }).code ?? '')) throw error;
      process.emitWarning(`ops are no longer recorded, which is slower: ${(error as Error).message}`);
      this.#recorder = null;
      this.forget();
      return false;
    }
    entry.replay.run();
    return true;
  }

  /** All shapes but the `kept` used last. */
  forget(kept = 0): void {
    for (const [key, entry] of this.#entries) {
      if (this.#entries.size <= kept) return;
      this.#entries.delete(key);
      disposeEntry(entry);
    }
  }
}

function disposeEntry({ replay, shape }: Entry<{ dispose(): void }>): void {
  replay?.dispose();
  shape.dispose();
}
