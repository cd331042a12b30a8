/**
 * Every endpoint and parameter that OpenAI's fine-tuning users meet, driven by the official SDK against the whole
 * service with the shipped model: real files, real trainings, real answers. matrix.py is the same in Python.
 */
import { afterAll, beforeAll, vi } from 'vitest';
import { batchesMatrix } from './matrix/batches.ts';
import { chatMatrix } from './matrix/chat.ts';
import { filesMatrix } from './matrix/files.ts';
import { type Matrix, startMatrix, stopMatrix } from './matrix/harness.ts';
import { jobsMatrix } from './matrix/jobs.ts';

vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 });

let matrix: Matrix;
beforeAll(async () => {
  matrix = await startMatrix();
});
afterAll(stopMatrix);

filesMatrix(() => matrix);
jobsMatrix(() => matrix);
batchesMatrix(() => matrix);
chatMatrix(() => matrix);
