/**
 * An adapter as it arrives: a PEFT folder as one tar, or its two files. Takes the two by name, refuses what could run
 * code when somebody loads it, and puts them into storage unopened but for a first look. Whether the weights fit the
 * base model is found out by a worker.
 */
import { ApiError, badRequest } from '../../errors.ts';
import type { Storage, StoredObject } from '../../storage/storage.ts';
import { JsonFault, scanJson } from '../files/json-scan.ts';
import { ByteReader } from './byte-reader.ts';
import { readTar } from './untar.ts';

export const CONFIG_FILE = 'adapter_config.json';
export const WEIGHTS_FILE = 'adapter_model.safetensors';
export const ADAPTER_FILES: readonly string[] = [CONFIG_FILE, WEIGHTS_FILE];

const CONFIG_BYTES_MAX = 1024 * 1024;
/** The tensors of an adapter have names and shapes; more than this is no list of them. */
const HEADER_BYTES_MAX = 16 * 1024 * 1024;
/** Formats that run code when they are loaded, by ending. */
const PICKLED = /\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz)$/i;
const COMPRESSED = /\.(tgz|tar\.\w+|zip|gz|7z|zst)$/i;
const FOLDER_DEPTH_MAX = 2;

export const invalidAdapter = (message: string, param = 'file') =>
  badRequest(message, param, 'invalid_adapter');

/** Collects the files of one import under `prefix`. */
export class ReceivedAdapter {
  readonly files = new Map<string, { name: string } & StoredObject>();
  /** adapter_config.json, parsed. */
  config: Record<string, unknown> | null = null;
  readonly #storage: Storage;
  readonly #prefix: string;
  #problem: ApiError | null = null;
  #turn: Promise<void> = Promise.resolve();
  #archives = 0;

  constructor(storage: Storage, prefix: string) {
    this.#storage = storage;
    this.#prefix = prefix;
  }

  /** Takes one file of the form. What is wrong with it is told by check(), when the sender has finished and listens. */
  take(filename: string, body: AsyncIterable<Uint8Array>): Promise<void> {
    // A form's next file may begin while the one before is still on its way to storage.
    this.#turn = this.#turn.then(() => this.#takeOrTell(filename, new ByteReader(body)));
    return this.#turn;
  }

  async #takeOrTell(filename: string, reader: ByteReader): Promise<void> {
    try {
      if (!this.#problem) await this.#take(filename, reader);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#problem ??= error;
    }
    await reader.drain();
  }

  /** Throws the first ApiError met, or one for what is missing. */
  check(): void {
    if (this.#problem) throw this.#problem;
    for (const name of ADAPTER_FILES) {
      if (this.files.has(name)) continue;
      if (this.files.size === 0 && this.#archives === 0)
        throw badRequest("'file' is a required property", 'file', 'missing_required_parameter');
      throw invalidAdapter(`The adapter has no ${name}.`);
    }
  }

  async #take(filename: string, reader: ByteReader): Promise<void> {
    const name = filename.split(/[/\\]/).at(-1) ?? '';
    if (COMPRESSED.test(name)) throw invalidAdapter('Archives are taken as plain .tar, not compressed.');
    if (!/\.tar$/i.test(name)) return this.#store(name, null, reader);
    this.#archives++;
    for await (const entry of readTar(reader)) {
      const segments = entry.path.split('/');
      const base = segments.at(-1) ?? '';
      if (base.startsWith('._')) continue; // what macOS adds
      const wanted = segments.length <= FOLDER_DEPTH_MAX && ADAPTER_FILES.includes(base);
      if (wanted) await this.#store(base, entry.bytes, new ByteReader(entry.body));
      else refusePickle(base); // everything else (README.md, …) is not needed and not kept
    }
  }

  async #store(name: string, bytes: number | null, reader: ByteReader): Promise<void> {
    refusePickle(name);
    if (!ADAPTER_FILES.includes(name)) {
      const known = `${ADAPTER_FILES.join(' and ')}, or one .tar of a PEFT folder`;
      throw invalidAdapter(
        `'${name.slice(0, 80).toWellFormed()}' is not a file of an adapter. Send ${known}.`,
      );
    }
    if (this.files.has(name)) throw invalidAdapter(`The adapter has ${name} twice.`);
    const key = `${this.#prefix}/${name}`;
    if (name === WEIGHTS_FILE) {
      const stored = await this.#storage.put(key, await looksLikeSafetensors(reader));
      this.files.set(name, { name, ...stored });
      return;
    }
    if (bytes !== null && bytes > CONFIG_BYTES_MAX) throw tooLarge();
    const text = await readAll(reader);
    this.config = parseConfig(text);
    this.files.set(name, { name, ...(await this.#storage.put(key, text)) });
  }
}

const tooLarge = () => invalidAdapter(`${CONFIG_FILE} is larger than ${CONFIG_BYTES_MAX} bytes.`);

function refusePickle(name: string): void {
  if (!PICKLED.test(name)) return;
  const shown = name.slice(0, 80).toWellFormed();
  throw invalidAdapter(
    `'${shown}' may run code when it is loaded and is not taken. Save the adapter as safetensors.`,
  );
}

async function readAll(reader: ByteReader): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of rest(reader)) {
    bytes += part.byteLength;
    if (bytes > CONFIG_BYTES_MAX) throw tooLarge();
    parts.push(part);
  }
  return Buffer.concat(parts);
}

async function* rest(reader: ByteReader, first?: Uint8Array): AsyncGenerator<Uint8Array> {
  if (first) yield first;
  for (let piece = await reader.next(); piece !== null; piece = await reader.next()) yield piece;
}

/** Refuses, by the first nine bytes, what is no safetensors file; returns all bytes. */
async function looksLikeSafetensors(reader: ByteReader): Promise<AsyncIterable<Uint8Array>> {
  const head = await reader.read(9);
  if (head === null) throw invalidAdapter(`${WEIGHTS_FILE} is shorter than its header.`);
  const bytes = Buffer.from(head);
  if (bytes[0] === 0x80 || bytes.toString('latin1', 0, 2) === 'PK') {
    throw invalidAdapter(
      `${WEIGHTS_FILE} is a pickle, which may run code when it is loaded, and no safetensors file.`,
    );
  }
  if (bytes.readBigUInt64LE() > BigInt(HEADER_BYTES_MAX) || bytes[8] !== 0x7b) {
    throw invalidAdapter(
      `${WEIGHTS_FILE} is no safetensors file, or its header is larger than ${HEADER_BYTES_MAX} bytes.`,
    );
  }
  return rest(reader, head);
}

function parseConfig(bytes: Buffer): Record<string, unknown> {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    scanJson(text, { depth: 16, nodes: 20_000 });
    const value: unknown = JSON.parse(text);
    if (value !== null && typeof value === 'object' && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError || error instanceof JsonFault))
      throw error;
    throw invalidAdapter(`${CONFIG_FILE} cannot be read: ${error.message.slice(0, 200)}`);
  }
  throw invalidAdapter(`${CONFIG_FILE} is not a JSON object.`);
}
