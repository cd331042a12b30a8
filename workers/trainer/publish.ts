/**
 * Turns the last checkpoint of a finished training into the job's result: model files and step_metrics.csv go to
 * storage, then one transaction makes them exist. The only caller of the queue's publish.
 */
import path from 'node:path';
import type { Database } from '../../src/db/client.ts';
import type { StoredFile } from '../../src/db/columns.ts';
import { newId } from '../../src/ids.ts';
import { type Fence, publish } from '../../src/queue/queue.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { digestOf, FORMAT_VERSION, MANIFEST, modelFilesOf, STATE_FILES } from './checkpoint.ts';
import type { Failpoints } from './failpoints.ts';
import { putFile } from './uploads.ts';

export interface PublishParts {
  database: Database;
  storage: Storage;
  fence: Fence;
  projectId: string;
  /** `projects/<project>/jobs/<job>/e<epoch>` */
  prefix: string;
  modelName: string;
  checkpoint: { dir: string; step: number; files: StoredFile[] };
  trainedTokens: number;
  /** Repeats while the database or the storage is away. */
  retry: <T>(work: () => Promise<T>) => Promise<T>;
  failpoints: Failpoints;
}

/** @returns storage prefixes that nothing refers to any more. @throws LeaseLost, CancelRequested */
export async function publishResult(parts: PublishParts): Promise<{ retired: string[] }> {
  const { storage, checkpoint, retry, failpoints } = parts;
  const files = modelFilesOf(checkpoint.files);
  const storagePrefix = `${parts.prefix}/model`;
  for (const file of files) {
    await retry(() =>
      putFile(storage, `${storagePrefix}/${file.name}`, path.join(checkpoint.dir, file.name), file),
    );
  }
  const manifest = JSON.stringify({ format_version: FORMAT_VERSION, step: checkpoint.step, files }, null, 2);
  await retry(() => storage.put(`${storagePrefix}/${MANIFEST}`, Buffer.from(`${manifest}\n`)));

  const csv = checkpoint.files.find((file) => file.name === STATE_FILES.metrics);
  if (!csv) throw new Error(`checkpoint of step ${checkpoint.step} has no ${STATE_FILES.metrics}`);
  const fileId = newId('file-');
  const storageKey = `projects/${parts.projectId}/files/${fileId}`;
  await retry(() => putFile(storage, storageKey, path.join(checkpoint.dir, csv.name), csv));

  failpoints.hit('publish.before_commit');
  const result = await retry(() =>
    publish(parts.database, parts.fence, {
      model: { name: parts.modelName, step: checkpoint.step, storagePrefix, files, digest: digestOf(files) },
      resultFile: {
        id: fileId,
        bytes: csv.bytes,
        sha256: csv.sha256,
        filename: STATE_FILES.metrics,
        purpose: 'fine-tune-results',
        storageKey,
      },
      trainedTokens: parts.trainedTokens,
    }),
  );
  failpoints.hit('publish.after_commit');
  return result;
}
