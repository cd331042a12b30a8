/**
 * What a project does with its webhook endpoints: create, look at, change, rotate, delete, try. A secret is shown when
 * it is made and never again.
 */
import { badRequest, invalidValue, noSuchWebhook, quotaReached } from '../../errors.ts';
import { newId, randomBase62 } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import type { WebhookEventType } from './event-types.ts';
import {
  countEndpoints,
  type EndpointRow,
  findEndpoint,
  insertEndpoint,
  listEndpoints,
  lockEndpoint,
  markEndpointDeleted,
  replaceSecret,
  updateEndpoint,
} from './repository.ts';
import { secretBox } from './sealed-secret.ts';
import { faultOf, send } from './send.ts';
import { newSecret, signedHeaders } from './signature.ts';

type Deps = Pick<Dependencies, 'database' | 'config'>;

/** As many as anybody has needed; each costs a delivery per event. */
const ENDPOINTS_MAX = 50;
const KEEP_OLD_SECONDS = 86_400;
const TEST_TIMEOUT_MS = 10_000;
/** Samples of one project on their way at once in this process: each may take the whole time. */
const TESTS_MAX = 4;
const testing = new Map<string, number>();

/** An endpoint with its secrets in the clear; null where no configured key opens them. */
export type Endpoint = Omit<EndpointRow, 'secret' | 'oldSecret'> & {
  secret: string | null;
  oldSecret: string | null;
};
/** As it is shown once, to whoever made the secret. */
export type EndpointWithSecret = Endpoint & { secret: string };

const boxOf = ({ config }: Deps) => secretBox(config.encryptionKeys);

function opened(deps: Deps, row: EndpointRow): Endpoint {
  const box = boxOf(deps);
  return {
    ...row,
    secret: box.open(row.secret, row.id),
    oldSecret: row.oldSecret === null ? null : box.open(row.oldSecret, row.id),
  };
}

/** The stored form under the key in force; what cannot be opened stays as it is. */
function resealed(deps: Deps, stored: string, id: string): string {
  const box = boxOf(deps);
  const secret = box.open(stored, id);
  return secret === null ? stored : box.seal(secret, id);
}

export interface EndpointFields {
  name: string;
  url: string;
  event_types: WebhookEventType[];
}

function checkUrl({ config }: Deps, url: string): void {
  const fault = faultOf(url, { allowPrivate: config.webhookPrivateAddresses });
  if (fault) throw invalidValue('url', `${fault}.`);
}

const typesOf = (types: readonly WebhookEventType[]) => [...new Set(types)];

/** The new endpoint with its secret. */
export async function createEndpoint(
  deps: Deps,
  projectId: string,
  fields: EndpointFields,
): Promise<EndpointWithSecret> {
  checkUrl(deps, fields.url);
  if ((await countEndpoints(deps.database.db, projectId)) >= ENDPOINTS_MAX) {
    throw badRequest(
      `A project can have ${ENDPOINTS_MAX} webhook endpoints.`,
      null,
      'too_many_webhook_endpoints',
    );
  }
  const [id, secret] = [newId('whe_'), newSecret()];
  const row = await insertEndpoint(deps.database.db, {
    id,
    projectId,
    name: fields.name,
    url: fields.url,
    eventTypes: typesOf(fields.event_types),
    secret: boxOf(deps).seal(secret, id),
  });
  return { ...row, secret };
}

/** The endpoint, or ApiError 404. */
export async function getEndpoint(deps: Deps, projectId: string, id: string): Promise<Endpoint> {
  return opened(deps, (await findEndpoint(deps.database.db, projectId, id)) ?? missing(id));
}

export async function pageOfEndpoints(
  deps: Deps,
  projectId: string,
  query: { limit: number; after?: string },
) {
  const { db } = deps.database;
  const { items, hasMore } = await listEndpoints(db, projectId, query);
  if (items.length === 0 && query.after && !(await findEndpoint(db, projectId, query.after))) {
    throw invalidValue('after', `no webhook endpoint '${query.after}' to continue from.`);
  }
  return { items: items.map((row) => opened(deps, row)), hasMore };
}

/** Changes what is given; an endpoint that was switched off after long failure is tried again. */
export async function changeEndpoint(
  deps: Deps,
  projectId: string,
  id: string,
  fields: Partial<EndpointFields>,
): Promise<Endpoint> {
  const change = {
    ...(fields.name !== undefined && { name: fields.name }),
    ...(fields.url !== undefined && { url: fields.url }),
    ...(fields.event_types !== undefined && { eventTypes: typesOf(fields.event_types) }),
  };
  return deps.database.transaction(async (tx) => {
    const before = (await lockEndpoint(tx, projectId, id)) ?? missing(id);
    if (fields.url !== undefined) checkUrl(deps, fields.url);
    if (Object.keys(change).length === 0 && before.disabledAt === null) return opened(deps, before);
    const secrets = {
      secret: resealed(deps, before.secret, id),
      oldSecret: before.oldSecret === null ? null : resealed(deps, before.oldSecret, id),
    };
    const row = await updateEndpoint(tx, projectId, id, { ...change, ...secrets });
    return opened(deps, row ?? missing(id));
  });
}

/** The endpoint with a new secret; with `keepOld` the old one signs beside it for 24 hours. */
export async function rotateSecret(
  deps: Deps,
  projectId: string,
  id: string,
  keepOld: boolean,
): Promise<EndpointWithSecret> {
  const secret = newSecret();
  return deps.database.transaction(async (tx) => {
    const before = (await lockEndpoint(tx, projectId, id)) ?? missing(id);
    const oldSecret = keepOld ? resealed(deps, before.secret, id) : null;
    const stored = { secret: boxOf(deps).seal(secret, id), oldSecret };
    const row = (await replaceSecret(tx, projectId, id, stored, KEEP_OLD_SECONDS)) ?? missing(id);
    return { ...row, secret };
  });
}

export async function deleteEndpoint({ database }: Deps, projectId: string, id: string): Promise<void> {
  if (!(await markEndpointDeleted(database.db, projectId, id))) missing(id);
}

/**
 * Sends a sample event now and returns the receiver's status. Throws ApiError 400 when no answer came: what failed is
 * the receiver, so repeating is the caller's choice; 429 while the project has too many samples under way.
 */
export async function testEndpoint(
  deps: Deps,
  projectId: string,
  id: string,
  eventType: WebhookEventType,
): Promise<number> {
  const endpoint = await getEndpoint(deps, projectId, id);
  const { secret, oldSecret, oldSecretUntil } = endpoint;
  if (secret === null) throw new Error(`no configured key opens the signing secret of ${id}`);
  const eventId = `evt_${randomBase62(24)}`;
  const about = eventType.startsWith('batch.') ? 'batch_' : 'ftjob-';
  const body = JSON.stringify({
    id: eventId,
    object: 'event',
    created_at: Math.floor(Date.now() / 1000),
    type: eventType,
    data: { id: `${about}test` },
  });
  const now = new Date();
  const secrets = oldSecret && oldSecretUntil && oldSecretUntil > now ? [secret, oldSecret] : [secret];
  const sent = await inTurn(projectId, () =>
    send(endpoint.url, signedHeaders(eventId, body, secrets, now), body, {
      allowPrivate: deps.config.webhookPrivateAddresses,
      timeoutMilliseconds: TEST_TIMEOUT_MS,
    }),
  );
  if (sent.status !== null) return sent.status;
  throw badRequest(`The webhook endpoint could not be reached: ${sent.error}.`, 'url', 'webhook_not_reached');
}

async function inTurn<T>(projectId: string, work: () => Promise<T>): Promise<T> {
  const before = testing.get(projectId) ?? 0;
  if (before >= TESTS_MAX) {
    const message = `This project already tries ${TESTS_MAX} webhook endpoints. Wait for one to answer.`;
    throw quotaReached(message, 'too_many_webhook_tests', 429);
  }
  testing.set(projectId, before + 1);
  try {
    return await work();
  } finally {
    const left = (testing.get(projectId) ?? 1) - 1;
    if (left > 0) testing.set(projectId, left);
    else testing.delete(projectId);
  }
}

function missing(id: string): never {
  throw noSuchWebhook(id);
}
