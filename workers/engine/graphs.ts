/**
 * Recording ops once and running them again: on a device where asking for an op costs more than a small op itself. The
 * recorded ops read and write the same tensors every time, so inputs and results must live outside; memory of tensors
 * made inside is shared by all recordings of a device. Knows no model.
 */
import type { Device } from './device.ts';

export interface Replay {
  /** Runs the recorded ops on what their tensors hold now. */
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

/** The device's recorder; null where ops run when they are called. */
export function recorderOf({ kind, native }: Device): Recorder | null {
  if (kind === 'cpu') return null;
  return {
    record(work) {
      native.captureBegin();
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
