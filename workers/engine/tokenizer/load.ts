/**
 * The tokenizer of a model folder. Plain text never yields a control token: text is encoded by an instance that does
 * not know the special tokens, and control tokens come only from parts that say so (the chat template's own text).
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers';
import { ChatTemplate, readTemplateSource } from './chat-template.ts';
import type { RenderedPart } from './rendered.ts';
import { readJsonFile, readTokenizerFile, TokenizerError, type TokenizerFile } from './tokenizer-file.ts';

export { StreamDecoder } from './stream-decoder.ts';
export { TokenizerError } from './tokenizer-file.ts';

/** Texts longer than this are encoded piecewise when only their first tokens are wanted. */
const pieceChars = 16_384;

/** The printable stand-in of each byte in byte-level vocabularies, inverted: character to byte. */
function byteOfCharacter(): Map<string, number> {
  const visible = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  const map = new Map<string, number>();
  let moved = 0;
  for (let b = 0; b < 256; b++) map.set(String.fromCharCode(visible(b) ? b : 256 + moved++), b);
  return map;
}

function tableOfBytes(file: TokenizerFile, path: string): Uint8Array[] {
  const bytes = byteOfCharacter();
  const table = new Array<Uint8Array>(file.vocabSize).fill(new Uint8Array(0));
  for (const [token, id] of file.vocab) {
    const codes = Array.from(token, (character) => bytes.get(character));
    if (codes.includes(undefined)) {
      if (file.addedTokens.some((added) => added.id === id)) continue;
      throw new TokenizerError(`${path}: token "${token}" is not in the byte-level alphabet`);
    }
    table[id] = Uint8Array.from(codes as number[]);
  }
  const encoder = new TextEncoder();
  for (const { id, content } of file.addedTokens) table[id] = encoder.encode(content);
  return table;
}

/** tokenizer.json without its special tokens; other added tokens (such as "<think>") stay part of ordinary text. */
function withoutSpecials(file: TokenizerFile): Record<string, unknown> {
  const specials = new Set(file.addedTokens.filter((t) => t.special).map((t) => t.content));
  const model = file.json.model as Record<string, unknown>;
  const vocab = Object.fromEntries([...file.vocab].filter(([token]) => !specials.has(token)));
  const added = ((file.json.added_tokens ?? []) as { content: string }[]).filter(
    (t) => !specials.has(t.content),
  );
  return {
    normalizer: null,
    ...file.json,
    post_processor: null,
    added_tokens: added,
    model: { ...model, vocab },
  };
}

interface TokenizerOptions {
  eosIds: number[];
  templateSource: string | null;
  bosToken: string | null;
  eosToken: string | null;
}

export class Tokenizer {
  /** One more than the highest id; the model's embedding may have more rows. */
  readonly vocabSize: number;
  /** Ids that end an answer; the first is the tokenizer's own end token. */
  readonly eosIds: readonly number[];
  /** Ids in front of every text that has no chat template (BOS of Llama 3; usually empty). */
  readonly prefixIds: readonly number[];
  readonly template: ChatTemplate | null;
  /** Contents of the special tokens, longest first. */
  readonly specialContents: readonly string[];
  private readonly plain: HubTokenizer;
  private readonly bytes: readonly Uint8Array[];
  private readonly specialIds: ReadonlyMap<string, number>;
  private readonly specialSet: ReadonlySet<number>;

  constructor(file: TokenizerFile, path: string, options: TokenizerOptions) {
    this.vocabSize = file.vocabSize;
    this.prefixIds = file.prefixIds;
    this.eosIds = options.eosIds;
    this.plain = new HubTokenizer(withoutSpecials(file), {});
    this.bytes = tableOfBytes(file, path);
    const specials = file.addedTokens.filter((token) => token.special);
    this.specialIds = new Map(specials.map(({ content, id }) => [content, id]));
    this.specialSet = new Set(this.specialIds.values());
    this.specialContents = [...this.specialIds.keys()].sort((a, b) => b.length - a.length);
    this.template =
      options.templateSource === null ? null : new ChatTemplate(options.templateSource, this, options);
  }

  /** Ids of ordinary text. "<|im_end|>" in it is nine ordinary characters and more, not a control token. */
  encode(text: string): number[] {
    return text === '' ? [] : this.plain.encode(text, { add_special_tokens: false }).ids;
  }

  /**
   * The first `limit` ids of `text` at least (all of them when the text is short), without encoding the rest of a
   * huge text. Pieces are cut before a single space inside text, where no byte-level pattern joins across.
   */
  encodePrefix(text: string, limit: number): number[] {
    if (text.length <= pieceChars) return this.encode(text);
    const ids: number[] = [];
    for (let start = 0; start < text.length && ids.length < limit; ) {
      const end = pieceEnd(text, start, start === 0 && limit * 8 > pieceChars ? limit * 8 : pieceChars);
      for (const id of this.encode(text.slice(start, end))) ids.push(id);
      start = end;
    }
    return ids;
  }

  /** Ids of a rendered template: plain parts as ordinary text, control parts as their special token. */
  encodeRendered(parts: readonly RenderedPart[], limit = Number.POSITIVE_INFINITY): number[] {
    const ids: number[] = [];
    for (const part of parts) {
      if (ids.length >= limit) break;
      if (part.control) ids.push(this.specialId(part.text));
      else for (const id of this.encodePrefix(part.text, limit - ids.length)) ids.push(id);
    }
    return ids;
  }

  /** The id of a special token. @throws Error when the tokenizer has none of that content. */
  specialId(content: string): number {
    const id = this.specialIds.get(content);
    if (id === undefined) throw new Error(`"${content}" is not a special token of this tokenizer`);
    return id;
  }

  /** Text of ids. Bytes that are not UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>, options: { skipSpecial?: boolean } = {}): string {
    const chunks: Uint8Array[] = [];
    for (const id of ids) {
      const bytes = this.tokenBytes(id);
      if (!(options.skipSpecial && this.specialSet.has(id))) chunks.push(bytes);
    }
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(chunks));
  }

  /** UTF-8 bytes of one token (maybe part of a character). Empty for an id that the file leaves unused. */
  tokenBytes(id: number): Uint8Array {
    const bytes = this.bytes[id];
    if (bytes === undefined) throw new RangeError(`token id ${id} is outside [0, ${this.vocabSize})`);
    return bytes;
  }

  /** One token as text, for log-probabilities; a part of a character shows as U+FFFD. */
  tokenString(id: number): string {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.tokenBytes(id));
  }

  isSpecial(id: number): boolean {
    return this.specialSet.has(id);
  }
}

/** Where to cut a piece of about `chars` characters: before a lone space, else wherever the text is that long. */
function pieceEnd(text: string, start: number, chars: number): number {
  if (start + chars >= text.length) return text.length;
  for (let i = start + chars; i > start + chars / 2; i--) {
    if (text[i] === ' ' && /\p{L}/u.test(text[i - 1]!) && /\p{L}/u.test(text[i + 1]!)) return i;
  }
  const end = start + chars;
  return /[\udc00-\udfff]/.test(text[end]!) ? end + 1 : end;
}

function eosTokenIds(dir: string, file: TokenizerFile, eosToken: string | null): number[] {
  const ids: number[] = [];
  const own = file.addedTokens.find((token) => token.content === eosToken);
  if (own) ids.push(own.id);
  for (const name of ['generation_config.json', 'config.json']) {
    const path = join(dir, name);
    if (!existsSync(path)) continue;
    const value = readJsonFile(path).eos_token_id;
    for (const id of Array.isArray(value) ? value : [value]) {
      if (Number.isInteger(id) && !ids.includes(id as number)) ids.push(id as number);
    }
  }
  return ids;
}

/** tokenizer_config.json writes a token as a string or as an AddedToken object. */
function tokenContent(value: unknown): string | null {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : null;
}

/**
 * Loads the tokenizer of a Hugging Face model folder: tokenizer.json, and when present tokenizer_config.json,
 * chat_template.jinja, generation_config.json and config.json (end tokens).
 * @throws TokenizerError naming the file and the reason; Error (ENOENT) when tokenizer.json is missing.
 */
export function loadTokenizer(dir: string): Tokenizer {
  const path = join(dir, 'tokenizer.json');
  const file = readTokenizerFile(path);
  const configPath = join(dir, 'tokenizer_config.json');
  const config = existsSync(configPath) ? readJsonFile(configPath) : {};
  const eosToken = tokenContent(config.eos_token);
  return new Tokenizer(file, path, {
    eosIds: eosTokenIds(dir, file, eosToken),
    templateSource: readTemplateSource(dir, config),
    bosToken: tokenContent(config.bos_token),
    eosToken,
  });
}
