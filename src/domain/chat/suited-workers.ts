/**
 * Which workers may answer a request: those of its base model, with the files that were trained on. Remembers of which
 * base models there were workers lately, since one that is started anew has no row for a while. Asks none of them.
 */
import type { GenerateRequest } from '../../inference/protocol.ts';
import type { Dependencies } from '../dependencies.ts';
import { type InferenceWorker, inferenceWorkers, REMEMBERED_SECONDS } from './repository.ts';

type Deps = Pick<Dependencies, 'database' | 'log'>;

/** When this process last found workers of a base model. */
const seen = new Map<string, number>();

/** The workers of a base model that were heard of lately, in whatever state. */
export async function knownWorkers({ database }: Deps, baseModel: string): Promise<InferenceWorker[]> {
  const known = await inferenceWorkers(database.db, baseModel);
  if (known.length > 0) seen.set(baseModel, performance.now());
  return known;
}

/** Whether there were workers of the base model a short while ago: they may be on their way back. */
export const wereSeenLately = (baseModel: string, now = performance.now()): boolean =>
  now - (seen.get(baseModel) ?? Number.NEGATIVE_INFINITY) < 1000 * REMEMBERED_SECONDS;

export type Suited = Pick<InferenceWorker, 'baseDigest'> & { url: string };

/** The ready workers whose base model is the one that was trained on, in random order. */
export function suited({ log }: Deps, wire: GenerateRequest, known: InferenceWorker[]): Suited[] {
  const ready = known.flatMap(({ url, isReady, baseDigest }) =>
    url !== null && isReady ? [{ url, baseDigest }] : [],
  );
  const fits = ready.filter(({ baseDigest }) => isSame(baseDigest, wire.base_digest));
  if (fits.length < ready.length) {
    const here = ready.map(({ baseDigest }) => baseDigest);
    const what = 'a model was trained on other files of its base model than some workers hold';
    log.warn({ model: wire.adapter?.model_id, trained_on: wire.base_digest, here }, what);
  }
  return shuffled(fits);
}

/** What is not known (from before digests were kept) is no reason to refuse. */
export const isSame = (held: string | null, wanted: string | undefined): boolean =>
  held === null || wanted === undefined || held === wanted;

function shuffled<T>(items: T[]): T[] {
  return items
    .map((item) => [Math.random(), item] as const)
    .toSorted(([a], [b]) => a - b)
    .map(([, item]) => item);
}
