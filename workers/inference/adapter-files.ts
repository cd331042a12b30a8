/**
 * The local copy of adapters: one folder per digest in this process's cache folder, fetched from object storage once,
 * every file checked against its sha256 before the folder gets its name. Bounded in bytes, least recently used folder
 * removed first. Knows storage and disks; must not know tensors, models or requests.
 */
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { WireAdapter } from '../../src/inference/protocol.ts';

/** The part of object storage that is needed here. */
export interface AdapterSource {
  get(key: string): Promise<Readable>;
}

export interface AdapterFilesOptions {
  storage: AdapterSource;
  /** A folder of this process alone: whatever lies there may be removed. */
  directory: string;
  /** Bytes of all folders at most; the ones in use stay even beyond it. */
  maxBytes: number;
  /** How long a failed fetch is remembered. */
  retryAfterMilliseconds: number;
  /** A fetch that brings no byte for this long has failed. */
  idleTimeoutMilliseconds: number;
  now?: () => number;
}

/** The adapter's files cannot be had, or are not the ones that were published. */
export class AdapterFilesError extends Error {
  override name = 'AdapterFilesError';
  readonly retryAfterSeconds: number;

  constructor(message: string, retryAfterSeconds: number) {
    super(message);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** A folder in use: it is not removed before `release`. */
export interface AdapterFolder {
  directory: string;
  release(): void;
}

/** What serving reads of a PEFT adapter, and of a full model. Other files of the prefix are not fetched. */
const ADAPTER_FILES = /^(adapter_config\.json|adapter_model\.safetensors)$/;
const MODEL_FILES = /^((config|generation_config)\.json|model[A-Za-z0-9-]*\.safetensors(\.index\.json)?)$/;

export class AdapterFiles {
  readonly #options: AdapterFilesOptions;
  readonly #now: () => number;
  readonly #fetching = new Map<string, Promise<void>>();
  /** Bytes of the folders on disk, least recently used first. */
  readonly #folders = new Map<string, number>();
  readonly #users = new Map<string, number>();
  readonly #failures = new Map<string, { message: string; until: number }>();
  #temporary = 0;

  constructor(options: AdapterFilesOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /**
   * The local folder of an adapter; concurrent calls for one digest share one fetch.
   * @throws AdapterFilesError when it cannot be fetched, a file differs from its sha256, or that was so a moment ago.
   */
  async acquire(adapter: WireAdapter): Promise<AdapterFolder> {
    const { digest } = adapter;
    this.#users.set(digest, (this.#users.get(digest) ?? 0) + 1);
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      const users = this.#users.get(digest)! - 1;
      if (users === 0) this.#users.delete(digest);
      else this.#users.set(digest, users);
    };
    try {
      await this.#ensure(adapter);
      return { directory: this.#folder(digest), release };
    } catch (error) {
      release();
      throw error;
    }
  }

  async #ensure(adapter: WireAdapter): Promise<void> {
    const { digest } = adapter;
    const known = this.#folders.get(digest);
    if (known !== undefined) {
      this.#folders.delete(digest); // now the most recently used
      this.#folders.set(digest, known);
      return;
    }
    this.#refuseRecentFailure(digest);
    let fetching = this.#fetching.get(digest);
    if (!fetching) {
      fetching = this.#fetchOrRemember(adapter).finally(() => this.#fetching.delete(digest));
      this.#fetching.set(digest, fetching);
    }
    await fetching;
  }

  async #fetchOrRemember(adapter: WireAdapter): Promise<void> {
    try {
      const files = servedFiles(adapter.files);
      await this.#fetch(adapter, files, this.#folder(adapter.digest));
      this.#folders.set(
        adapter.digest,
        files.reduce((sum, file) => sum + file.bytes, 0),
      );
      await this.#removeOld(adapter.digest);
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      const wait = this.#options.retryAfterMilliseconds;
      if (this.#failures.size >= 1024) this.#failures.clear(); // bounded; forgetting only costs another fetch
      this.#failures.set(adapter.digest, { message, until: this.#now() + wait });
      throw new AdapterFilesError(message, Math.ceil(wait / 1000));
    }
  }

  #refuseRecentFailure(digest: string): void {
    const failure = this.#failures.get(digest);
    if (!failure) return;
    const left = failure.until - this.#now();
    if (left > 0) throw new AdapterFilesError(failure.message, Math.ceil(left / 1000));
    this.#failures.delete(digest);
  }

  async #fetch(adapter: WireAdapter, files: WireAdapter['files'], target: string): Promise<void> {
    const temporary = path.join(this.#options.directory, `tmp-${this.#temporary++}`);
    await mkdir(temporary, { recursive: true, mode: 0o700 });
    try {
      const prefix = adapter.storage_prefix.replace(/\/+$/, '');
      for (const file of files) {
        const source = await this.#options.storage.get(`${prefix}/${file.name}`);
        await this.#receive(source, path.join(temporary, file.name), file);
      }
      await rm(target, { recursive: true, force: true }); // being removed, when it was evicted a moment ago
      await rename(temporary, target);
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  }

  /** Streams one file to disk; fails on the first byte too many, at the end on one too few or a wrong sha256. */
  async #receive(source: Readable, target: string, file: WireAdapter['files'][number]): Promise<void> {
    const hash = createHash('sha256');
    let bytes = 0;
    const idle = new AbortController();
    const timer = setTimeout(
      () => idle.abort(new Error(`${file.name} stopped arriving from storage`)),
      this.#options.idleTimeoutMilliseconds,
    );
    const check = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        timer.refresh();
        bytes += chunk.length;
        hash.update(chunk);
        done(bytes > file.bytes ? new Error(`${file.name} is longer than published`) : null, chunk);
      },
    });
    try {
      await pipeline(source, check, createWriteStream(target, { flags: 'wx', mode: 0o600 }), {
        signal: idle.signal,
      });
    } catch (error) {
      throw idle.signal.aborted ? idle.signal.reason : error;
    } finally {
      clearTimeout(timer);
    }
    if (bytes !== file.bytes) throw new Error(`${file.name} has ${bytes} bytes instead of ${file.bytes}`);
    if (hash.digest('hex') !== file.sha256) throw new Error(`${file.name} differs from its sha256`);
  }

  async #removeOld(keep: string): Promise<void> {
    let total = 0;
    for (const bytes of this.#folders.values()) total += bytes;
    for (const [digest, bytes] of this.#folders) {
      if (total <= this.#options.maxBytes) return;
      if (digest === keep || this.#users.has(digest)) continue;
      this.#folders.delete(digest);
      total -= bytes;
      await rm(this.#folder(digest), { recursive: true, force: true });
    }
  }

  #folder(digest: string): string {
    return path.join(this.#options.directory, digest);
  }
}

/** True when a folder holds a model of its own instead of an adapter. */
export function isFullModel(files: WireAdapter['files']): boolean {
  return (
    files.some((file) => file.name === 'config.json') && !files.some((file) => ADAPTER_FILES.test(file.name))
  );
}

function servedFiles(files: WireAdapter['files']): WireAdapter['files'] {
  if (isFullModel(files)) return files.filter((file) => MODEL_FILES.test(file.name));
  const served = files.filter((file) => ADAPTER_FILES.test(file.name));
  if (served.length !== 2) throw new Error('its files are neither a PEFT adapter nor a model');
  return served;
}
