// A device that records, on the CPU's ops: a recording keeps the native calls with the handles and numbers they were made
// with, as a graph does, and runs those again. What a graph may not do fails here too: reads and writes by the host while
// recording, and results that lean on what memory held before.
import { Device, type Handle, type Native } from '../../workers/engine/device.ts';
import type { Recorder } from '../../workers/engine/graphs.ts';

type Call = (...values: unknown[]) => unknown;

const CREATES = new Set(['tensorCreate', 'tensorView']);
/** They wait for the device, or copy from the host: see native/cuda/staging.cc. */
const REFUSED = new Set([
  ...['tensorWrite', 'tensorRead', 'readLater', 'deferredTake', 'deferredReady', 'synchronize'],
  ...['sumSquares', 'hasNonFinite', 'packWeight', 'adamwStep', 'adamwList', 'sumSquaresInto'],
]);
const ALWAYS = new Set(['info', 'tensorInfo', 'cudaInfo']);
/** What fresh memory holds in a replay: a sum with it is far off, a product overflows. */
const GARBAGE = { f32: 1e30, bf16: 1e30, i32: 2 ** 30, u8: null };

class WorksAhead extends Device {
  override get worksAhead(): boolean {
    return true;
  }
}

export interface RecordingDevice {
  device: Device;
  recorder: Recorder;
  /** Recordings begun, alive now, and runs of them. */
  counts: { recorded: number; live: number; runs: number };
}

export function recordingDevice(native: Native): RecordingDevice {
  const counts = { recorded: 0, live: 0, runs: 0 };
  /** How many recordings use a handle, and which of those were freed meanwhile. */
  const uses = new Map<Handle, number>();
  const freed = new Set<Handle>();
  let recording: { calls: (() => void)[]; handles: Set<Handle> } | null = null;

  const release = (handle: Handle) => {
    const left = (uses.get(handle) ?? 1) - 1;
    if (left > 0) uses.set(handle, left);
    else {
      uses.delete(handle);
      if (freed.delete(handle)) native.tensorFree(handle);
    }
  };
  const hold = (value: unknown) => {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (typeof item !== 'object' || item === null || recording!.handles.has(item)) continue;
      recording!.handles.add(item);
      uses.set(item, (uses.get(item) ?? 0) + 1);
    }
  };
  const intercept = (name: string, call: Call): Call => {
    if (name === 'tensorFree')
      return (handle) => {
        if (uses.has(handle as Handle)) freed.add(handle as Handle);
        else call(handle);
      };
    return (...values) => {
      if (recording === null || ALWAYS.has(name)) return call(...values);
      if (REFUSED.has(name)) throw new Error(`${name} while a graph is recorded`);
      if (!CREATES.has(name)) {
        for (const value of values) hold(value);
        recording.calls.push(() => call(...values));
        return undefined;
      }
      const made = call(...values) as Handle;
      hold(made);
      const garbage = name === 'tensorCreate' ? GARBAGE[values[0] as keyof typeof GARBAGE] : null;
      if (garbage !== null) recording.calls.push(() => native.fill(made, garbage));
      return made;
    };
  };
  const intercepted = Object.fromEntries(
    Object.entries(native).map(([name, call]) => [name, intercept(name, call as Call)]),
  ) as unknown as Native;

  const recorder: Recorder = {
    record(work) {
      const mine = { calls: [] as (() => void)[], handles: new Set<Handle>() };
      recording = mine;
      try {
        work();
      } catch (error) {
        for (const handle of mine.handles) release(handle);
        throw error;
      } finally {
        recording = null;
      }
      counts.recorded++;
      counts.live++;
      return {
        run() {
          counts.runs++;
          for (const call of mine.calls) call();
        },
        dispose() {
          counts.live--;
          for (const handle of mine.handles) release(handle);
        },
      };
    },
  };
  return { device: new WorksAhead('cpu', intercepted), recorder, counts };
}
