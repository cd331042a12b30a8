/**
 * Names that `model` may have: base models, tuned models and their checkpoints. Unknown, foreign and deleted names are
 * one and the same.
 */
import { ApiError, modelNotFound, permissionDenied } from '../../errors.ts';
import { liveQuantizations } from '../chat/repository.ts';
import type { Dependencies } from '../dependencies.ts';
import { findSharedModel, listSharedModels } from '../jobs/permission-repository.ts';
import {
  type BaseModelRow,
  findBaseModel,
  findTunedModel,
  isOffered,
  type ListedTunedModel,
  listBaseModels,
  listOfferedBaseModels,
  listTunedModels,
  markModelDeleted,
  type TunedModelRow,
} from './repository.ts';

type Deps = Pick<Dependencies, 'database'>;

export interface ListedModel {
  id: string;
  created: Date;
  ownedBy: string;
  kind: 'base' | 'adapter' | 'full';
  /** Of the base model, which a tuned one shares. */
  family: string;
  contextLength: number;
  parameterCount: number;
  /** How a ready worker that answers for it holds the base model's weights, where not as they are. */
  quantization: string | null;
  /** Where a tuned model comes from. */
  tuned: { baseModel: string; jobId: string | null; step: number; isCheckpoint: boolean } | null;
}

const listedBase = (row: BaseModelRow, quantizations: ReadonlyMap<string, string>): ListedModel => ({
  id: row.id,
  created: row.createdAt,
  ownedBy: 'lathe',
  kind: 'base',
  family: row.family,
  contextLength: row.contextLength,
  parameterCount: row.parameterCount,
  quantization: quantizations.get(row.id) ?? null,
  tuned: null,
});
const listedTuned = (row: ListedTunedModel, base: ListedModel): ListedModel => ({
  ...base,
  id: row.id,
  created: row.createdAt,
  ownedBy: row.ownedBy,
  kind: row.kind as 'adapter',
  tuned: { baseModel: row.baseModel, jobId: row.jobId, step: row.step, isCheckpoint: row.isCheckpoint },
});

/** Tuned models in a list at most: OpenAI's list has no pages. Older ones answer by their names. */
const LISTED_MAX = 10_000;

/** Base models on offer first, then the tuned ones that the project may use, its own and shared ones, newest first. */
export async function listModels({ database }: Deps, projectId: string): Promise<ListedModel[]> {
  const [rows, offered, quantizations, own, shared] = await Promise.all([
    listBaseModels(database.db),
    listOfferedBaseModels(database.db),
    liveQuantizations(database.db),
    listTunedModels(database.db, projectId, LISTED_MAX),
    listSharedModels(database.db, projectId, LISTED_MAX),
  ]);
  const tuned = shared.length === 0 ? own : newestFirst([...own, ...shared]).slice(0, LISTED_MAX);
  const bases = rows.map((row) => listedBase(row, quantizations));
  const baseOf = new Map(bases.map((base) => [base.id, base]));
  const listed = tuned.flatMap((row) => {
    const base = baseOf.get(row.baseModel);
    return base ? [listedTuned(row, base)] : [];
  });
  const ids = new Set(offered.map(({ id }) => id));
  return [...bases.filter(({ id }) => ids.has(id)), ...listed];
}

const newestFirst = (rows: ListedTunedModel[]) =>
  rows.sort((a, b) => b.createdAt.getTime() - a.createdAt.getTime() || (a.id < b.id ? 1 : -1));

/** The model, or ApiError 404: also for a base model that nobody has any more. */
export async function getModel(deps: Deps, projectId: string, id: string): Promise<ListedModel> {
  const { base, tuned } = await resolveModel(deps, projectId, id);
  if (!tuned && !(await isOffered(deps.database.db, id))) throw modelNotFound(id);
  const listed = listedBase(base, await liveQuantizations(deps.database.db));
  return tuned ? listedTuned(tuned, listed) : listed;
}

/** Deletes a tuned model for its users at once; base models are the operator's. */
export async function deleteModel({ database }: Deps, projectId: string, id: string): Promise<void> {
  if (await markModelDeleted(database.db, projectId, id)) return;
  if (await findBaseModel(database.db, id))
    throw permissionDenied(`The base model '${id}' cannot be deleted.`);
  throw modelNotFound(id);
}

/** The base model behind a name and, for a tuned one, what was learned. ApiError 404 when the project has no such model. */
export async function resolveModel(
  { database }: Deps,
  projectId: string,
  id: string,
): Promise<{ base: BaseModelRow; tuned: TunedModelRow | null }> {
  const base = await findBaseModel(database.db, id);
  if (base) return { base, tuned: null };
  const tuned =
    (await findTunedModel(database.db, projectId, id)) ?? (await findSharedModel(database.db, projectId, id));
  const itsBase = tuned && (await findBaseModel(database.db, tuned.baseModel));
  if (!tuned || !itsBase) throw modelNotFound(id);
  return { base: itsBase, tuned };
}

/** As resolveModel, for what only the owner may do: ApiError 403 for a model that is shared with the project. */
export async function resolveOwnModel(
  deps: Deps,
  projectId: string,
  id: string,
): ReturnType<typeof resolveModel> {
  const found = await resolveModel(deps, projectId, id);
  if (found.tuned && found.tuned.projectId !== projectId) {
    throw permissionDenied(
      `The model '${id}' is shared with this project for use. Only the project that owns it can download or export it.`,
    );
  }
  return found;
}

/** As resolveModel, for names that came percent-encoded too, as some clients copy them from URLs. */
export async function resolveWrittenModel(
  deps: Deps,
  projectId: string,
  name: string,
): ReturnType<typeof resolveModel> {
  const decoded = /%[0-9a-f]{2}/i.test(name) ? decodedName(name) : name;
  try {
    return await resolveModel(deps, projectId, name);
  } catch (error) {
    if (decoded === name || !(error instanceof ApiError)) throw error;
    return resolveModel(deps, projectId, decoded);
  }
}

function decodedName(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // not an encoding, so a name like any other
  }
}
