/** `lathe models pull|list`. */
import type { Config } from '../config.ts';
import { describeBaseModel } from '../domain/base-models/describe.ts';
import { listBaseModels, upsertBaseModel } from '../domain/base-models/repository.ts';
import { withDatabase } from './database.ts';
import { pullModel } from './pull.ts';
import { table } from './table.ts';

/** Fetches and registers a model; the sentence to print. */
export async function pullCommand(
  config: Config,
  id: string,
  revision: string,
  say: (line: string) => void,
): Promise<string> {
  const model = await describeBaseModel(await pullModel(config, id, revision, say));
  await withDatabase(config, 'lathe models', (database) => upsertBaseModel(database.db, model));
  return `${model.id} is in ${model.location}. A running service trains and serves it after a restart.`;
}

/** One line per registered base model. */
export async function listCommand(config: Config): Promise<string> {
  const models = await withDatabase(config, 'lathe models', (database) => listBaseModels(database.db));
  const rows = models.map((m) => [m.id, m.family, `${m.parameterCount}`, `${m.contextLength}`, m.location]);
  return table([['MODEL', 'FAMILY', 'PARAMETERS', 'CONTEXT', 'FOLDER'], ...rows]);
}
