/** An engine thread for tests: it is ready at once, answers nothing, and hangs with its second request. */
import { parentPort, workerData } from 'node:worker_threads';
import type { EngineThreadData, FromEngine, ToEngine } from '../../workers/inference/engine.ts';

const { pulse } = workerData as EngineThreadData;
let requests = 0;
parentPort!.on('message', (message: ToEngine) => {
  if (message.type !== 'generate') return;
  if (++requests === 2) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  setInterval(() => Atomics.add(pulse, 0, 1), 5); // slow, but at work
});
const info = { contextLength: 8, vocabSize: 8, device: 'cpu', kvBlocks: 1, kvBytes: 1 };
parentPort!.postMessage({ type: 'ready', info } satisfies FromEngine);
