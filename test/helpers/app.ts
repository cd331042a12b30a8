/**
 * The whole API over a schema and a storage folder of its own: called in process, or served on a real port. Two
 * projects with a key each, because most rules are about what one may not see of the other.
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { createApp } from '../../src/app.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { baseModels, workers } from '../../src/db/schema.ts';
import type { Dependencies } from '../../src/domain/dependencies.ts';
import { createKey } from '../../src/domain/keys/create.ts';
import type { App } from '../../src/http/context.ts';
import { newId } from '../../src/ids.ts';
import { createLog } from '../../src/log.ts';
import { listen, type RunningServer } from '../../src/server.ts';
import { openDiskStorage } from '../../src/storage/disk.ts';
import { createProject, useDatabase } from './database.ts';

export const BASE_MODEL = 'Qwen/Qwen3-tiny';
export const WORKER_TOKEN = 'worker-token-of-the-tests';
export const CONTEXT_LENGTH = 2_048;

export interface Tenant {
  projectId: string;
  organization: { id: string; slug: string };
  key: string;
}

export interface CallOptions {
  json?: unknown;
  body?: RequestInit['body'];
  headers?: Record<string, string>;
  key?: string | null;
}

export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked into field by field
  json: any;
}

export interface TestApp extends Dependencies {
  app: App;
  alice: Tenant;
  bob: Tenant;
  storageDir: string;
  /** Log lines since the start, as text. */
  logged: string[];
  /** Calls the app in process, as Alice unless `key` says otherwise (null: without a key). */
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  /** Uploads text as a file and returns its id. */
  upload(text: string, options?: { purpose?: string; filename?: string; key?: string }): Promise<string>;
  /** Serves the app on a real port until the tests end; returns the base URL of the API. */
  serve(): Promise<string>;
  /** Objects in storage. */
  stored(): Promise<string[]>;
}

/** Registers the hooks; the holder is filled from beforeAll on. */
export function useApp(overrides: Partial<Config> = {}): TestApp {
  const holder = useDatabase() as unknown as TestApp;
  let server: RunningServer | null = null;
  beforeAll(async () => {
    holder.storageDir = await mkdtemp(path.join(tmpdir(), 'lathe-storage-'));
    holder.config = loadConfig({}, { workerToken: WORKER_TOKEN, port: 0, ...overrides });
    holder.storage = await openDiskStorage(holder.storageDir);
    holder.logged = [];
    holder.log = createLog({ level: 'info' }, { write: (line: string) => holder.logged.push(line) });
    await holder.database.db.insert(baseModels).values({
      id: BASE_MODEL,
      location: '/models/tiny',
      family: 'qwen3',
      parameterCount: 4_000_000,
      contextLength: CONTEXT_LENGTH,
      config: {},
    });
    // Somebody has it, though nobody works: lists show it.
    await holder.database.db.insert(workers).values({
      ...{ id: newId('worker_'), kind: 'trainer', device: 'none', host: 'h', pid: 1, state: 'draining' },
      ...{ baseModels: [BASE_MODEL], heartbeatAt: new Date(Date.now() + 3_600_000) },
    });
    holder.alice = await createTenant(holder, 'acme');
    holder.bob = await createTenant(holder, 'umbrella');
    holder.app = createApp(holder);
  });
  afterAll(async () => {
    await server?.close();
    if (holder.storageDir) await rm(holder.storageDir, { recursive: true, force: true });
  });

  holder.call = async (method, url, options = {}) => {
    const response = await holder.app.request(url, requestOf(method, { key: holder.alice.key, ...options }));
    return answerOf(response);
  };
  holder.upload = async (text, { purpose = 'fine-tune', filename = 'train.jsonl', key } = {}) => {
    const form = new FormData();
    form.set('purpose', purpose);
    form.set('file', new File([text], filename));
    const answer = await holder.call('POST', '/v1/files', { body: form, ...(key ? { key } : {}) });
    if (answer.status !== 200) throw new Error(`upload answered ${answer.status}: ${answer.text}`);
    return answer.json.id;
  };
  holder.serve = async () => {
    server ??= await listen(holder.app.fetch as never, { host: '127.0.0.1', port: 0 });
    return `${server.url}/v1`;
  };
  holder.stored = async () => {
    const entries = await readdir(holder.storageDir, { recursive: true, withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
  };
  return holder;
}

function requestOf(method: string, { json, body, headers, key }: CallOptions): RequestInit {
  const all = new Headers(headers);
  if (key) all.set('authorization', `Bearer ${key}`);
  if (json !== undefined && !all.has('content-type')) all.set('content-type', 'application/json');
  return {
    method,
    headers: all,
    body: json === undefined ? body : JSON.stringify(json),
    duplex: 'half',
  } as RequestInit;
}

async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.includes('application/json');
  return {
    status: response.status,
    headers: response.headers,
    text,
    json: isJson && text !== '' ? JSON.parse(text) : undefined,
  };
}

async function createTenant(deps: Pick<Dependencies, 'database'>, slug: string): Promise<Tenant> {
  const project = await createProject(deps.database, slug);
  const { key } = await createKey(deps.database, project.id, slug);
  return { projectId: project.id, organization: project.organization, key };
}

/** Ten rows of chat, the least a job takes. */
export const TEN_ROWS = Array.from({ length: 10 }, (_, i) =>
  JSON.stringify({
    messages: [
      { role: 'user', content: `Question ${i}?` },
      { role: 'assistant', content: `Answer ${i}.` },
    ],
  }),
).join('\n');
