/**
 * Reads and checks a Hugging Face tokenizer.json before any of it is used: size, ids, merges, patterns.
 * Supports byte-level BPE (Qwen, Llama 3, GPT-2 style); says by name what it does not support.
 */
import { readFileSync, statSync } from 'node:fs';

/** A model folder's tokenizer or template that cannot be used. `message` names the file and the reason. */
export class TokenizerError extends Error {
  readonly code = 'invalid_tokenizer';
  override name = 'TokenizerError';
}

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

/** The checked content of tokenizer.json. `json` is the parsed file, unchanged. */
export interface TokenizerFile {
  json: Record<string, unknown>;
  /** Token strings of the BPE vocabulary by id, in the byte-level alphabet. */
  vocab: Map<string, number>;
  addedTokens: AddedToken[];
  /** One more than the highest id. */
  vocabSize: number;
  /** Ids that the file's post-processor puts in front of every text (a BOS token), usually none. */
  prefixIds: number[];
}

const maxFileBytes = 64 * 1024 * 1024;
const maxAddedTokens = 4096;
const maxVocab = 1 << 20;

type Json = Record<string, unknown>;

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function fail(path: string, reason: string): never {
  throw new TokenizerError(`${path}: ${reason}`);
}

/** Parses one JSON file of a model folder under a size cap. */
export function readJsonFile(path: string, maxBytes = maxFileBytes): Json {
  const bytes = statSync(path).size;
  if (bytes > maxBytes) fail(path, `${bytes} bytes, more than the limit of ${maxBytes}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path)));
  } catch (error) {
    fail(path, `not valid JSON: ${(error as Error).message}`);
  }
  if (!isObject(value)) fail(path, 'must be a JSON object');
  return value;
}

/**
 * Refuses patterns that can run in exponential time: a repeated group that itself repeats something.
 * The patterns of GPT-2, Qwen and Llama 3 repeat single character classes only and pass.
 */
function checkPattern(path: string, pattern: string): void {
  if (pattern.length > 4096) fail(path, 'a pre-tokenizer pattern is longer than 4096 characters');
  if (/\)(?:[+*]|\{\d+,?\d*\})/.test(pattern.replace(/\\./g, ''))) {
    fail(path, `the pre-tokenizer pattern repeats a group, which is not supported: ${pattern.slice(0, 80)}`);
  }
}

function checkSteps(path: string, part: string, value: unknown, allowed: readonly string[]): void {
  if (value === null || value === undefined) return;
  if (!isObject(value)) fail(path, `${part} must be an object`);
  const type = String(value.type);
  if (type === 'Sequence') {
    const steps = value.pretokenizers ?? value.normalizers ?? value.decoders ?? value.processors;
    if (!Array.isArray(steps) || steps.length > 16)
      fail(path, `${part} must be a sequence of at most 16 steps`);
    for (const step of steps) checkSteps(path, part, step, allowed);
    return;
  }
  if (!allowed.includes(type))
    fail(path, `${part} of type ${type} is not supported (supported: ${allowed.join(', ')})`);
  const regex = isObject(value.pattern) ? value.pattern.Regex : undefined;
  if (typeof regex === 'string') checkPattern(path, regex);
}

function readVocab(path: string, model: Json): Map<string, number> {
  if (!isObject(model.vocab)) fail(path, 'model.vocab is missing');
  const vocab = new Map<string, number>();
  const taken = new Set<number>();
  for (const [token, id] of Object.entries(model.vocab)) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= maxVocab)
      fail(path, `bad id of "${token}"`);
    if (taken.has(id as number)) fail(path, `id ${id} is used twice`);
    taken.add(id as number);
    vocab.set(token, id as number);
  }
  return vocab;
}

function checkMerges(path: string, model: Json, vocab: Map<string, number>): void {
  if (!Array.isArray(model.merges)) fail(path, 'model.merges is missing');
  for (const merge of model.merges) {
    const pair: unknown[] = Array.isArray(merge) ? merge : String(merge).split(' ');
    const [left, right] = pair;
    if (pair.length !== 2 || typeof left !== 'string' || typeof right !== 'string') {
      fail(path, `a merge is not a pair: ${JSON.stringify(merge).slice(0, 80)}`);
    }
    if (!vocab.has(left + right))
      fail(path, `merge "${left} ${right}" gives a token that is not in the vocabulary`);
  }
}

function readAddedTokens(path: string, value: unknown): AddedToken[] {
  const list = value ?? [];
  if (!Array.isArray(list)) fail(path, 'added_tokens must be an array');
  if (list.length > maxAddedTokens) fail(path, `more than ${maxAddedTokens} added tokens`);
  return list.map((token: unknown) => {
    if (!isObject(token) || typeof token.content !== 'string' || token.content === '') {
      fail(path, 'an added token has no content');
    }
    const id = token.id;
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= maxVocab) {
      fail(path, `added token "${token.content}" has a bad id`);
    }
    return { id: id as number, content: token.content, special: token.special === true };
  });
}

/** Ids in front of every text by a TemplateProcessing step (Llama 3 puts its BOS there). */
function readPrefixIds(processor: unknown): number[] {
  if (!isObject(processor)) return [];
  if (Array.isArray(processor.processors)) return processor.processors.flatMap(readPrefixIds);
  if (processor.type !== 'TemplateProcessing' || !Array.isArray(processor.single)) return [];
  const specials = isObject(processor.special_tokens) ? processor.special_tokens : {};
  const ids: number[] = [];
  for (const piece of processor.single) {
    if (!isObject(piece) || !isObject(piece.SpecialToken)) break;
    const entry = specials[String(piece.SpecialToken.id)];
    if (isObject(entry) && Array.isArray(entry.ids)) ids.push(...entry.ids.map(Number));
  }
  return ids;
}

/**
 * Reads tokenizer.json.
 * @throws TokenizerError naming the file and what is wrong or not supported.
 */
export function readTokenizerFile(path: string): TokenizerFile {
  const json = readJsonFile(path);
  const model = isObject(json.model) ? json.model : fail(path, 'model is missing');
  if (model.type !== undefined && model.type !== 'BPE')
    fail(path, `model of type ${model.type} is not supported, only BPE`);
  if (model.byte_fallback === true) fail(path, 'byte_fallback BPE is not supported, only byte-level BPE');
  checkSteps(path, 'normalizer', json.normalizer, ['NFC']);
  checkSteps(path, 'pre_tokenizer', json.pre_tokenizer, ['Split', 'ByteLevel', 'Digits']);
  checkSteps(path, 'decoder', json.decoder, ['ByteLevel']);
  if (!JSON.stringify(json.pre_tokenizer ?? null).includes('"ByteLevel"')) {
    fail(path, 'the pre_tokenizer has no ByteLevel step; only byte-level BPE is supported');
  }
  const vocab = readVocab(path, model);
  checkMerges(path, model, vocab);
  const addedTokens = readAddedTokens(path, json.added_tokens);
  let top = -1;
  for (const id of vocab.values()) top = Math.max(top, id);
  for (const { id } of addedTokens) top = Math.max(top, id);
  return { json, vocab, addedTokens, vocabSize: top + 1, prefixIds: readPrefixIds(json.post_processor) };
}
