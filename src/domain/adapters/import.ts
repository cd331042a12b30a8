/**
 * An adapter trained elsewhere (or downloaded here) becomes a model: its files are received, a worker that has the base
 * model checks them and publishes what it read, and the caller waits for that.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Queryable } from '../../db/client.ts';
import {
  type ApiError,
  badRequest,
  duplicateParameter,
  invalidValue,
  missingParameter,
  modelUnavailable,
  quotaReached,
  stringTooLong,
  unknownParameter,
} from '../../errors.ts';
import { newId, newModelTail } from '../../ids.ts';
import { liveWorkerUrls } from '../chat/repository.ts';
import type { Dependencies } from '../dependencies.ts';
import type { UploadSink } from '../files/create.ts';
import { getModel, type ListedModel } from '../models/registry.ts';
import { type BaseModelRow, findBaseModel } from '../models/repository.ts';
import { requireImportRoom } from '../quotas/quotas.ts';
import { lockProject } from '../quotas/repository.ts';
import {
  countLiveImports,
  endOperation,
  findOperation,
  insertOperation,
  type OperationRow,
  organizationSlug,
} from './operations-repository.ts';
import { invalidAdapter, ReceivedAdapter } from './received.ts';

type Deps = Pick<Dependencies, 'config' | 'database' | 'storage' | 'log'>;

const FIELDS = ['base_model', 'suffix'];
const SUFFIX_MAX = 64;
const POLL_MS = 100;
/** An idle worker looks every second; longer than this and there is none. */
const TAKEN_WITHIN_MS = 60_000;
/** A worker gives up on an adapter long before. */
const CHECKED_WITHIN_MS = 300_000;
const RETRY_SECONDS = 5;

/**
 * Runs `receive`, which feeds the sink, and returns the new model. Throws ApiError for a form that is not an adapter,
 * one that does not fit its base model, 429 when the project has too many under way, and 503 while no worker has that
 * model. Nothing is left of a refused one; one whose sender leaves (`signal`) is ended, and a sweep takes its bytes.
 */
export async function importAdapter(
  deps: Deps,
  projectId: string,
  receive: (sink: UploadSink) => Promise<void>,
  signal: AbortSignal,
): Promise<ListedModel> {
  const { database, storage } = deps;
  const id = newId('import_');
  const prefix = `projects/${projectId}/imports/${id}`;
  const received = new ReceivedAdapter(storage, prefix);
  const fields = new Map<string, string>();
  let problem: ApiError | null = null;
  await requireSlot(database.db, deps, projectId);
  try {
    await receive({
      field: (name, value) => {
        if (fields.has(name)) problem ??= duplicateParameter(name);
        else if (name === 'file')
          problem ??= badRequest("'file' must be a file: its part needs a filename.", 'file', 'invalid_type');
        else if (!FIELDS.includes(name)) problem ??= unknownParameter(name.slice(0, 80));
        fields.set(name, value);
      },
      file: (filename, body) => received.take(filename, body),
    });
    if (problem) throw problem;
    const suffix = readSuffix(fields.get('suffix'));
    received.check();
    const base = await readBase(deps, fields.get('base_model'), received.config);
    if ((await liveWorkerUrls(database.db, base.id)).length === 0)
      throw modelUnavailable(base.id, 'no worker serves it.', RETRY_SECONDS);
    const slug = await organizationSlug(database.db, projectId);
    await database.transaction(async (tx) => {
      await lockProject(tx, projectId);
      await requireSlot(tx, deps, projectId);
      const bytes = [...received.files.values()].reduce((sum, file) => sum + file.bytes, 0);
      await requireImportRoom(tx, deps.config, projectId, bytes);
      await insertOperation(tx, {
        ...{ id, projectId, kind: 'import', baseModel: base.id, inputPrefix: prefix },
        modelId: `ft:${base.id}:${slug}:${suffix}:${newModelTail()}`,
        inputFiles: [...received.files.values()],
      });
    });
  } catch (error) {
    await removeReceived(deps, prefix);
    throw error;
  }
  const done = await outcome(deps, projectId, id, signal);
  return getModel(deps, projectId, done.modelId);
}

/** Throws ApiError 429 when as many imports are under way as a project may have. */
async function requireSlot(db: Queryable, { config }: Deps, projectId: string): Promise<void> {
  const max = config.maxImports;
  if ((await countLiveImports(db, projectId, CHECKED_WITHIN_MS / 1000)) < max) return;
  const message = `This project already has ${max} ${max === 1 ? 'import' : 'imports'} under way, which is its limit. Wait for one to end.`;
  throw quotaReached(message, 'import_limit_reached', 429);
}

/** Waits for the worker. Throws ApiError when it refused the adapter or nobody took it, the signal's reason once aborted. */
async function outcome(
  { database }: Deps,
  projectId: string,
  id: string,
  signal: AbortSignal,
): Promise<OperationRow> {
  const start = performance.now();
  for (;;) {
    const row = await findOperation(database.db, projectId, 'import', id);
    if (row?.status === 'succeeded') return row;
    if (row?.status === 'failed' && row.error)
      throw badRequest(row.error.message, row.error.param, row.error.code);
    const waited = performance.now() - start;
    const late =
      signal.aborted || waited > CHECKED_WITHIN_MS || (waited > TAKEN_WITHIN_MS && row?.status === 'queued');
    // Ended by us, so that no model appears that nobody waits for; if a worker is just done, the next look shows it.
    if (!row || (late && (await endOperation(database.db, projectId, 'import', id, ['queued', 'running'])))) {
      signal.throwIfAborted();
      throw modelUnavailable(row?.baseModel ?? '', 'no worker could check the adapter.', RETRY_SECONDS);
    }
    await sleep(POLL_MS, undefined, { signal }).catch(() => {}); // the next round ends the import
  }
}

async function removeReceived({ storage, log }: Deps, prefix: string): Promise<void> {
  try {
    for await (const { key } of storage.list(`${prefix}/`)) await storage.delete(key);
  } catch (error) {
    log.warn({ err: error, prefix }, 'a refused import is left to the next sweep');
  }
}

/** As the suffix of a job: any text, of which the name gets what it can hold. */
function readSuffix(text = ''): string {
  const length = [...text].length;
  if (length > SUFFIX_MAX) throw stringTooLong('suffix', SUFFIX_MAX, length);
  return text.replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^-+|-+$/g, '');
}

/** The base model named by the form, else by the adapter itself. */
async function readBase(
  { database }: Deps,
  named: string | undefined,
  config: Record<string, unknown> | null,
): Promise<BaseModelRow> {
  const own = config?.base_model_name_or_path;
  const id = named ?? (typeof own === 'string' ? own : undefined);
  if (id === undefined) throw missingParameter('base_model');
  const base = id.length <= 512 && !id.includes('\0') ? await findBaseModel(database.db, id) : null;
  if (base) return base;
  const shown = id.slice(0, 200).toWellFormed();
  if (named === undefined) {
    throw invalidAdapter(
      `The adapter was trained on '${shown}', which is no base model of this server. Say with 'base_model' which one it fits.`,
      'base_model',
    );
  }
  throw invalidValue('base_model', `'${shown}' is no base model of this server.`, 'model_not_available');
}
