/**
 * The inference worker, top to bottom: settings → register → load the base model → serve → drain on signal.
 * Started by hand (`node workers/inference/main.ts`) or by `lathe inference` and `lathe up`.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { EXIT_CONFIG } from '../../src/commands/child.ts';
import { type BaseModelSource, type Config, ConfigError, loadConfig } from '../../src/config.ts';
import { openDatabase } from '../../src/db/client.ts';
import { baseModelSources } from '../../src/domain/base-models/register.ts';
import { noteBaseDigest } from '../../src/domain/base-models/repository.ts';
import { newId } from '../../src/ids.ts';
import { createLog, type Log } from '../../src/log.ts';
import { openStorage } from '../../src/storage/open.ts';
import { baseDigestFolder, digestBase } from '../base-digest.ts';
import { startOperations } from '../operations/operations.ts';
import { openProcessFolder } from '../process-folder.ts';
import { AdapterFiles } from './adapter-files.ts';
import { Admission } from './admission.ts';
import { Engine, EngineHangs } from './engine.ts';
import { Grammars } from './grammar/grammars.ts';
import { Inspector } from './inspect.ts';
import { PromptThread } from './prompts.ts';
import { Registration } from './registration.ts';
import { InferenceServer } from './server.ts';

/** The engine died; whoever supervises this process starts it again (sysexits EX_SOFTWARE). */
const EXIT_ENGINE = 70;
/** A turn of the engine may be long (a whole model is read in one): so many times LATHE_STALL_SECONDS. */
const STALL_FACTOR = 5;
const BLOCK_SIZE = 16;
/** Tokens of one step: large enough for efficient products, small enough that a prefill chunk delays nobody for long. */
const TOKEN_BUDGET = 256;
const WAITING_TOKENS_MIN = 2 ** 18;
const PROMPT_DEADLINE_MILLISECONDS = 30_000;
/** Two: a schema that takes long to compile delays only half of the constrained answers. */
const GRAMMAR_THREADS = 2;
const GRAMMAR_DEADLINE_MILLISECONDS = 20_000;
const STREAM_LIMITS = { maxBufferedBytes: 256 * 1024, stallMilliseconds: 30_000 };
const ADAPTER_CACHE = {
  maxBytes: 8 * 2 ** 30,
  retryAfterMilliseconds: 30_000,
  idleTimeoutMilliseconds: 30_000,
};

async function main(config: Config, log: Log): Promise<void> {
  if (config.databaseUrl === null) {
    throw new ConfigError('DATABASE_URL is not set: an inference worker needs the database.');
  }
  const source = await pickModel(config);
  const database = openDatabase(config.databaseUrl, {
    connections: 1,
    name: 'lathe inference',
    onConnectionError: (error) => log.warn({ err: error }, 'lost a database connection'),
  });
  const registration = new Registration(database, log, config.heartbeatSeconds, {
    id: newId('worker_'),
    kind: 'inference',
    device: config.device,
    state: 'starting',
    baseModel: source.id,
    quantization: quantizationOf(config),
  });
  await registration.announce({});
  try {
    const { server, url, device, baseDigest, close } = await serve(config, source, log);
    const before = await noteBaseDigest(database.db, source.id, baseDigest);
    if (before !== null && before !== baseDigest) {
      log.warn(
        { model: source.id, folder: source.location, before, now: baseDigest },
        'the base model has other files than when it was last opened: what was trained on those is not served here',
      );
    }
    const storage = await openStorage(config);
    const operations = await startOperations({
      config,
      database,
      storage,
      baseModel: source,
      baseDigest,
      log,
    });
    await registration.announce({ state: 'ready', device, url, baseDigest });
    log.info({ url, model: source.id }, 'ready');

    await terminationSignal();
    log.info({ seconds: config.drainSeconds }, 'draining');
    const unfinished = server.drain(config.drainSeconds * 1000);
    await registration.announce({ state: 'draining' }).catch((error: unknown) => {
      log.warn({ err: error }, 'the drain was not announced');
    });
    await operations.stop();
    log.info({ unfinished: await unfinished }, 'drained');
    await close();
  } finally {
    await registration.remove();
    await database.close();
  }
}

/** The model this process is to hold: the one named, or the first there is. */
async function pickModel(config: Config): Promise<BaseModelSource> {
  const sources = await baseModelSources(config);
  const wanted = config.inferenceModel;
  const found = wanted === null ? sources[0] : sources.find((source) => source.id === wanted);
  if (found) return found;
  const names = sources.map((source) => source.id).join(', ') || 'none';
  throw new ConfigError(
    `LATHE_INFERENCE_MODEL=${wanted ?? ''}: no such base model here (there is: ${names}).`,
  );
}

const quantizationOf = ({ quantization }: Config) => (quantization === 'none' ? null : quantization);

/** The digest of the model's folder, worked out while the engine loads it. */
async function digestOf(config: Config, source: BaseModelSource, log: Log) {
  const started = performance.now();
  const files = await digestBase(source.location, baseDigestFolder(config.home), (err) =>
    log.warn({ err }, 'the digest of the base model could not be remembered'),
  );
  const seconds = (performance.now() - started) / 1000;
  log.info(
    { model: source.id, digest: files.digest, hashed_bytes: files.hashedBytes, seconds },
    'model digest',
  );
  return files;
}

/** Loads the model and listens. @throws BaseFilesChanged when the folder was changed meanwhile */
async function serve(config: Config, source: BaseModelSource, log: Log) {
  const digesting = digestOf(config, source, log);
  digesting.catch(() => undefined); // told below; the engine may say first what is wrong with the folder
  const engine = await Engine.start(
    {
      modelDirectory: source.location,
      device: config.device,
      threads: config.threads,
      kvCacheBytes: config.kvCacheBytes,
      blockSize: BLOCK_SIZE,
      prefixCache: true,
      maxRunning: config.maxRunning,
      maxAdapters: config.maxAdapters,
      tokenBudget: TOKEN_BUDGET,
      quantization: quantizationOf(config),
    },
    (error) => {
      log.fatal({ err: error }, `the engine died: ${error.message}`);
      // An orderly exit would wait for the thread, which may be in a native call without end.
      if (error instanceof EngineHangs) process.kill(process.pid, 'SIGKILL');
      process.exit(EXIT_ENGINE);
    },
    { stallMilliseconds: STALL_FACTOR * config.stallSeconds * 1000 },
  );
  const base = await digesting;
  await base.verify();
  log.info({ model: source.id, ...engine.info }, 'model loaded');
  const adapterFolder = await openProcessFolder(path.join(config.home, 'cache', 'adapters'));
  const adapterFiles = new AdapterFiles({
    storage: await openStorage(config),
    directory: adapterFolder,
    ...ADAPTER_CACHE,
  });
  const prompts = new PromptThread(source.location, PROMPT_DEADLINE_MILLISECONDS);
  const grammars = new Grammars({
    modelDirectory: source.location,
    threads: GRAMMAR_THREADS,
    deadlineMilliseconds: GRAMMAR_DEADLINE_MILLISECONDS,
    connect: (thread, port) => engine.connectGrammars(thread, port),
  });
  const inspector = new Inspector(source.location, config.storage);
  const server = new InferenceServer({
    token: config.workerToken,
    baseModel: source.id,
    baseDigest: base.digest,
    engine,
    prompts,
    grammars,
    inspector,
    adapterFiles,
    admission: new Admission({
      maxRunning: config.maxRunning,
      maxWaiting: config.maxWaiting,
      maxWaitingTokens: Math.max(WAITING_TOKENS_MIN, 16 * engine.info.contextLength),
    }),
    stream: STREAM_LIMITS,
    maxBodyBytes: 2 * config.maxBodyBytes, // the API's limit, and room for what it adds
    log,
  });
  const port = await server.listen(config.inferenceHost, config.inferencePort);
  const host = config.inferenceHost.includes(':') ? `[${config.inferenceHost}]` : config.inferenceHost;
  return {
    server,
    url: config.inferenceUrl ?? `http://${host}:${port}`,
    device: engine.info.device,
    baseDigest: base.digest,
    close: async () => {
      await Promise.all([engine.close(), prompts.close(), grammars.close(), inspector.close()]);
      await rm(adapterFolder, { recursive: true, force: true });
    },
  };
}

function terminationSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
}

const log = createLog({ level: 'info', name: 'inference' });
try {
  const config = loadConfig();
  log.level = config.logLevel;
  await main(config, log);
  process.exit(0);
} catch (error) {
  log.fatal({ err: error }, error instanceof Error ? error.message : String(error));
  process.exit(error instanceof ConfigError ? EXIT_CONFIG : 1);
}
