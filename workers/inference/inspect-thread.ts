/** The thread behind inspect.ts: loads the tokenizer, opens the storage, and answers one inspection after the other. */
import { parentPort, workerData } from 'node:worker_threads';
import type { Config } from '../../src/config.ts';
import type { FileInspection, InspectAnswer, InspectRequest } from '../../src/inference/inspection.ts';
import { openStorage } from '../../src/storage/open.ts';
import { LoraConfigError } from '../engine/peft/lora-config.ts';
import { TemplateError } from '../engine/tokenizer/chat-template.ts';
import { loadTokenizer } from '../engine/tokenizer/load.ts';
import { inspectFile, inspectRows } from './inspect-files.ts';
import { trainingMemory } from './inspect-memory.ts';

export interface InspectThreadData {
  modelDirectory: string;
  storage: Config['storage'];
}

/** `invalid` is the request's fault, said in words; `failed` is ours. */
export type FromInspectThread = { answer: InspectAnswer } | { invalid: string } | { failed: string };

const { modelDirectory, storage: storageConfig } = workerData as InspectThreadData;
const tokenizer = loadTokenizer(modelDirectory);
const storage = openStorage({ storage: storageConfig });
const port = parentPort!;

port.on('message', (request: InspectRequest) => {
  void answer(request).then((message: FromInspectThread) => port.postMessage(message));
});

async function answer(request: InspectRequest): Promise<FromInspectThread> {
  const deadline = performance.now() + 1000 * request.seconds;
  try {
    const opened = await storage;
    if (request.rows) {
      const rows = await inspectRows(opened, tokenizer, request, deadline);
      return { answer: { files: [], rows, memory: null } };
    }
    const memory = request.training && trainingMemory(modelDirectory, request.training);
    const files: FileInspection[] = [];
    for (const file of request.files) {
      files.push(await inspectFile(opened, tokenizer, file, request, deadline));
    }
    return { answer: { files, rows: [], memory } };
  } catch (error) {
    const isInvalid = error instanceof TemplateError || error instanceof LoraConfigError;
    if (isInvalid) return { invalid: error.message };
    return { failed: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}
