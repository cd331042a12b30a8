/**
 * A whole worker around a small random model: model folder, adapters in disk storage, engine thread, prompt thread and
 * HTTP, as workers/inference/main.ts puts them together; and the slow oracle to compare it with.
 */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type {
  GenerateEvent,
  GenerateRequest,
  WireAdapter,
  WirePromptToken,
  WireToken,
  WorkerError,
} from '../../src/inference/protocol.ts';
import { openStorage } from '../../src/storage/open.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { baseDigestFolder, digestBase } from '../../workers/base-digest.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { createModel, type Model, openModel, readModelConfig } from '../../workers/engine/models/index.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { loadTokenizer, type Tokenizer } from '../../workers/engine/tokenizer/load.ts';
import { AdapterFiles } from '../../workers/inference/adapter-files.ts';
import { Admission } from '../../workers/inference/admission.ts';
import { Engine, type EngineOptions } from '../../workers/inference/engine.ts';
import { Grammars } from '../../workers/inference/grammar/grammars.ts';
import { PromptThread } from '../../workers/inference/prompts.ts';
import { InferenceServer } from '../../workers/inference/server.ts';
import { plainSampling } from './fake-model.ts';

const TOKEN = 'a-token-for-this-test-only';
const SHIPPED = path.join(import.meta.dirname, '..', '..', 'models', 'lathe-tiny');
export const CONTEXT = 256;

const engineDefaults: EngineOptions = {
  modelDirectory: '',
  device: 'cpu',
  threads: 2,
  kvCacheBytes: 0,
  blockSize: 16,
  prefixCache: true,
  maxRunning: 8,
  maxAdapters: 4,
  tokenBudget: 64,
};

/** Writes a random Qwen3 of two layers that speaks with the shipped tokenizer. */
async function writeModel(directory: string, seed: number): Promise<void> {
  const shipped = JSON.parse(await readFile(path.join(SHIPPED, 'config.json'), 'utf8')) as object;
  const config = readModelConfig({
    ...shipped,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    max_window_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    max_position_embeddings: CONTEXT,
    initializer_range: 0.15, // larger than usual: the logits of an untrained model must not be flat
    torch_dtype: 'float32',
  });
  const model = createModel(config, openDevice({ kind: 'cpu' }), { dtype: 'f32', seed });
  await model.save(directory);
  model.dispose();
}

const openStore = (home: string): Promise<Storage> =>
  openStorage({ storage: { kind: 'disk', dir: path.join(home, 'storage') } });

export class TinyWorld {
  readonly home: string;
  readonly modelDirectory: string;
  readonly storage: Storage;
  readonly tokenizer: Tokenizer;
  /** The same weights, for the oracle's full forward. */
  readonly model: Model;

  private constructor(home: string, storage: Storage, modelDirectory: string) {
    this.home = home;
    this.storage = storage;
    this.modelDirectory = modelDirectory;
    this.tokenizer = loadTokenizer(this.modelDirectory);
    this.model = openModel(this.modelDirectory, openDevice({ kind: 'cpu' }), { dtype: 'f32' });
  }

  static async create(): Promise<TinyWorld> {
    const home = await mkdtemp(path.join(tmpdir(), 'lathe-inference-'));
    await writeModel(path.join(home, 'model'), 1);
    for (const file of ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']) {
      await copyFile(path.join(SHIPPED, file), path.join(home, 'model', file));
    }
    return new TinyWorld(home, await openStore(home), path.join(home, 'model'));
  }

  /** The shipped model, which has learned to write. */
  static async shipped(): Promise<TinyWorld> {
    const home = await mkdtemp(path.join(tmpdir(), 'lathe-inference-'));
    return new TinyWorld(home, await openStore(home), SHIPPED);
  }

  async remove(): Promise<void> {
    this.model.dispose();
    await rm(this.home, { recursive: true });
  }

  /** A random adapter in PEFT's format, in a folder. */
  async writeAdapter(seed: number): Promise<string> {
    const folder = path.join(this.home, 'written', `adapter-${seed}`);
    await mkdir(folder, { recursive: true });
    const config = { r: 4, lora_alpha: 8, lora_dropout: 0, target_modules: 'all-linear', use_rslora: false };
    const adapter = LoraAdapter.create(this.model, { ...config, init_lora_weights: false }, seed);
    await adapter.save(folder, { baseModelName: 'tiny' });
    adapter.dispose();
    return folder;
  }

  /** Another random model, as full fine-tuning would leave it. */
  async writeFullModel(seed: number): Promise<string> {
    const folder = path.join(this.home, 'written', `full-${seed}`);
    await writeModel(folder, seed);
    return folder;
  }

  /** Puts a folder into storage as the trainer publishes it; `damage` changes one file after it was hashed. */
  async publish(folder: string, damage?: { name: string; bytes: Buffer }): Promise<WireAdapter> {
    const name = path.basename(folder);
    const storage_prefix = `projects/p/jobs/${name}-${Math.random().toString(36).slice(2)}/e1/model`;
    const files: WireAdapter['files'] = [];
    for (const file of await readdir(folder)) {
      const bytes = await readFile(path.join(folder, file));
      files.push({ name: file, bytes: bytes.length, sha256: sha256(bytes) });
      await this.storage.put(`${storage_prefix}/${file}`, damage?.name === file ? damage.bytes : bytes);
    }
    const digest = sha256(Buffer.from(JSON.stringify([storage_prefix, files])));
    return { model_id: `ft:tiny:acme:${name}:12345678`, digest, storage_prefix, files };
  }

  promptIds(content: string): number[] {
    return this.tokenizer.template!.renderToIds([{ role: 'user', content }], { addGenerationPrompt: true });
  }

  async digest(): Promise<string> {
    const cannotRemember = (error: unknown) => {
      throw error;
    };
    return (await digestBase(this.modelDirectory, baseDigestFolder(this.home), cannotRemember)).digest;
  }

  get eos(): Set<number> {
    return new Set([...this.model.config.eosTokenIds, ...this.tokenizer.eosIds]);
  }
}

/** The texts and tokens of one answer, put together from its events. */
export interface Answer {
  status: number;
  error: WorkerError | null;
  text: string[];
  tokens: WireToken[][];
  calls: { name: string; arguments: string }[][];
  prompt: WirePromptToken[];
  reasons: string[];
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

type Extra = Pick<GenerateRequest, 'tool_choice' | 'response_format' | 'prompt' | 'prompt_logprobs'>;

export type Ask = Partial<GenerateRequest['sampling']> & {
  content: string;
  tools?: unknown[];
  extra?: Partial<Extra>;
  adapter?: WireAdapter | null;
  signal?: AbortSignal;
  onEvent?: (event: GenerateEvent) => void;
};

export class TinyWorker {
  readonly engine: Engine;
  readonly server: InferenceServer;
  readonly url: string;
  readonly #prompts: PromptThread;
  readonly grammars: Grammars;

  private constructor(
    engine: Engine,
    server: InferenceServer,
    prompts: PromptThread,
    grammars: Grammars,
    url: string,
  ) {
    this.engine = engine;
    this.server = server;
    this.#prompts = prompts;
    this.grammars = grammars;
    this.url = url;
  }

  static async start(
    world: TinyWorld,
    o: Partial<EngineOptions> & { maxWaiting?: number; token?: string; baseModel?: string } = {},
  ): Promise<TinyWorker> {
    const { maxWaiting = 64, token = TOKEN, baseModel = 'tiny', ...options } = o;
    const engineOptions = { ...engineDefaults, modelDirectory: world.modelDirectory, ...options };
    const engine = await Engine.start(engineOptions, (error) => {
      throw error;
    });
    const prompts = new PromptThread(world.modelDirectory, 60_000);
    const adapterFiles = new AdapterFiles({
      storage: world.storage,
      directory: await mkdtemp(path.join(world.home, 'cache-')),
      maxBytes: 1e9,
      retryAfterMilliseconds: 30_000,
      idleTimeoutMilliseconds: 60_000,
    });
    const grammars = new Grammars({
      modelDirectory: engineOptions.modelDirectory,
      threads: 1,
      deadlineMilliseconds: 60_000,
      connect: (thread, port) => engine.connectGrammars(thread, port),
    });
    const server = new InferenceServer({
      token,
      baseModel,
      baseDigest: await world.digest(),
      engine,
      prompts,
      grammars,
      adapterFiles,
      admission: new Admission({ maxRunning: engineOptions.maxRunning, maxWaiting, maxWaitingTokens: 1e6 }),
      stream: { maxBufferedBytes: 256 * 1024, stallMilliseconds: 30_000 },
      maxBodyBytes: 1e6,
      log: { warn: (fields) => console.warn(fields), error: (fields) => console.error(fields) },
    });
    const port = await server.listen('127.0.0.1', 0);
    return new TinyWorker(engine, server, prompts, grammars, `http://127.0.0.1:${port}`);
  }

  async stop(): Promise<void> {
    await this.server.drain(0);
    await Promise.all([this.engine.close(), this.#prompts.close(), this.grammars.close()]);
  }

  async ask({ content, adapter = null, tools, extra, signal, onEvent, ...sampling }: Ask): Promise<Answer> {
    const request: GenerateRequest = {
      request_id: 'req_test',
      base_model: 'tiny',
      adapter,
      cache_owner: 'proj_a',
      messages: extra?.prompt === undefined ? [{ role: 'user', content }] : [],
      tools: tools ?? null,
      sampling: { ...plainSampling, logprobs: true, ...sampling },
      ...extra,
    };
    const response = await fetch(`${this.url}/generate`, {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}` },
      body: JSON.stringify(request),
      ...(signal ? { signal } : {}),
    });
    return readAnswer(response, request.sampling.n, onEvent);
  }
}

export async function readAnswer(
  response: Response,
  n: number,
  onEvent?: (event: GenerateEvent) => void,
): Promise<Answer> {
  const answer: Answer = {
    status: response.status,
    error: null,
    text: Array<string>(n).fill(''),
    tokens: Array.from({ length: n }, () => []),
    calls: Array.from({ length: n }, () => []),
    prompt: [],
    reasons: Array<string>(n).fill(''),
    promptTokens: 0,
    completionTokens: 0,
    cachedTokens: 0,
  };
  if (response.status !== 200) return { ...answer, error: (await response.json()) as WorkerError };
  let rest = '';
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      const event = JSON.parse(line) as GenerateEvent;
      onEvent?.(event);
      if (event.type === 'delta') {
        answer.text[event.index] += event.text;
        answer.tokens[event.index]!.push(...event.tokens);
      } else if (event.type === 'tool_call') {
        answer.calls[event.index]!.push({ name: event.name, arguments: '' });
      } else if (event.type === 'tool_arguments') {
        answer.calls[event.index]![event.call]!.arguments += event.text;
      } else if (event.type === 'prompt') answer.prompt = event.tokens;
      else if (event.type === 'finish') answer.reasons[event.index] = event.reason;
      else if (event.type === 'error') answer.error = event.error;
      else if (event.type === 'start' || event.type === 'done') {
        answer.promptTokens = event.prompt_tokens;
        answer.cachedTokens = event.cached_tokens;
        if (event.type === 'done') answer.completionTokens = event.completion_tokens;
      }
    }
  }
  return answer;
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Writes a file with one byte changed in the middle. */
export async function flipByte(file: string): Promise<Buffer> {
  const bytes = await readFile(file);
  bytes[bytes.length >> 1]! ^= 0x40;
  await writeFile(file, bytes);
  return bytes;
}
