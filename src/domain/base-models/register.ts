/**
 * Decides which base models an installation offers: those the configuration names, or the shipped one and every pulled
 * one; and writes them to the database.
 */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { type BaseModelSource, type Config, PROJECT_ROOT } from '../../config.ts';
import type { Database } from '../../db/client.ts';
import { type BaseModelDescription, BaseModelError, describeBaseModel } from './describe.ts';
import { upsertBaseModel } from './repository.ts';

const SHIPPED: BaseModelSource = {
  id: 'lathe-tiny',
  location: path.join(PROJECT_ROOT, 'models', 'lathe-tiny'),
};

/** Folder of pulled models: <home>/models/<owner>/<name>. */
export const pulledFolder = (home: string) => path.join(home, 'models');

/** The sources in force, the shipped one first. */
export async function baseModelSources(config: Config): Promise<BaseModelSource[]> {
  if (config.baseModels) return [...config.baseModels];
  const shipped = existsSync(path.join(SHIPPED.location, 'config.json')) ? [SHIPPED] : [];
  return [...shipped, ...(await pulledModels(pulledFolder(config.home)))];
}

/**
 * Describes and registers every source. A model named by the configuration must be usable (BaseModelError otherwise);
 * a pulled folder that is not is reported to `onSkipped` and left out.
 */
export async function registerBaseModels(
  config: Config,
  database: Pick<Database, 'db'>,
  onSkipped: (reason: string) => void,
): Promise<BaseModelDescription[]> {
  const models: BaseModelDescription[] = [];
  for (const source of await baseModelSources(config)) {
    try {
      models.push(await describeBaseModel(source));
    } catch (error) {
      if (config.baseModels || !(error instanceof BaseModelError)) throw error;
      onSkipped(error.message);
    }
  }
  if (models.length === 0) {
    throw new BaseModelError(
      `There is no base model: ${SHIPPED.location} is not there. Set LATHE_BASE_MODELS or run 'lathe models pull'.`,
    );
  }
  for (const model of models) await upsertBaseModel(database.db, model);
  return models;
}

async function pulledModels(folder: string): Promise<BaseModelSource[]> {
  if (!existsSync(folder)) return [];
  const found: BaseModelSource[] = [];
  for (const owner of await readdir(folder, { withFileTypes: true })) {
    if (!owner.isDirectory() || owner.name.startsWith('.')) continue;
    for (const name of await readdir(path.join(folder, owner.name))) {
      const location = path.join(folder, owner.name, name);
      if (existsSync(path.join(location, 'config.json')))
        found.push({ id: `${owner.name}/${name}`, location });
    }
  }
  return found.sort((a, b) => (a.id < b.id ? -1 : 1));
}
