/**
 * A JSON parser that refuses what JSON.parse lets through silently: duplicate keys, lone surrogates, NUL, numbers that
 * overflow, deep nesting. Two readers of one training file must never see different rows.
 */

/** `path` is the place inside the value ("messages[1].content"); `column` is 1-based, in characters. */
export class JsonError extends Error {
  override name = 'JsonError';
  readonly code:
    | 'invalid_jsonl'
    | 'duplicate_key'
    | 'invalid_content'
    | 'json_too_deep'
    | 'json_too_large'
    | 'unknown_field';
  readonly path: string;
  readonly column: number;

  constructor(code: JsonError['code'], path: string, column: number, message: string) {
    super(message);
    this.code = code;
    this.path = path;
    this.column = column;
  }
}

const jsonLimits = { depth: 32, nodes: 100_000 } as const;

const numberPattern = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const escapePattern = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;
const spacePattern = /[ \t\r\n]*/y;
const forbiddenKeys = new Set(['__proto__', 'constructor', 'prototype']);

class Parser {
  private readonly text: string;
  private at = 0;
  private depth = 0;
  private nodes = 0;
  private readonly path: (string | number)[] = [];

  constructor(text: string) {
    this.text = text;
  }

  document(): unknown {
    const value = this.value();
    this.skipSpace();
    if (this.at < this.text.length) this.fail('invalid_jsonl', `extra data at column ${this.at + 1}`);
    return value;
  }

  private fail(code: JsonError['code'], message: string): never {
    let path = '';
    for (const step of this.path)
      path += typeof step === 'number' ? `[${step}]` : path === '' ? step : `.${step}`;
    throw new JsonError(code, path, this.at + 1, message);
  }

  private skipSpace(): void {
    spacePattern.lastIndex = this.at;
    spacePattern.test(this.text);
    this.at = spacePattern.lastIndex;
  }

  private value(): unknown {
    this.skipSpace();
    if (++this.nodes > jsonLimits.nodes)
      this.fail('json_too_large', `more than ${jsonLimits.nodes} values in one line`);
    switch (this.text[this.at]) {
      case '{':
        return this.nested(() => this.object());
      case '[':
        return this.nested(() => this.array());
      case '"':
        return this.string();
      case 't':
        return this.word('true', true);
      case 'f':
        return this.word('false', false);
      case 'n':
        return this.word('null', null);
      default:
        return this.number();
    }
  }

  private nested<T>(read: () => T): T {
    if (++this.depth > jsonLimits.depth)
      this.fail('json_too_deep', `nested deeper than ${jsonLimits.depth} levels`);
    this.at++;
    const value = read();
    this.depth--;
    return value;
  }

  private object(): Record<string, unknown> {
    const value: Record<string, unknown> = {};
    if (this.closes('}')) return value;
    do {
      this.skipSpace();
      if (this.text[this.at] !== '"')
        this.fail('invalid_jsonl', `expected a key in quotes at column ${this.at + 1}`);
      const key = this.string();
      this.path.push(key);
      if (forbiddenKeys.has(key)) this.fail('unknown_field', `the key "${key}" is not allowed`);
      if (Object.hasOwn(value, key))
        this.fail('duplicate_key', `the key "${key}" occurs twice in one object`);
      this.skipSpace();
      this.expect(':');
      value[key] = this.value();
      this.path.pop();
    } while (this.continues('}'));
    return value;
  }

  private array(): unknown[] {
    const value: unknown[] = [];
    if (this.closes(']')) return value;
    do {
      this.path.push(value.length);
      value.push(this.value());
      this.path.pop();
    } while (this.continues(']'));
    return value;
  }

  private closes(bracket: string): boolean {
    this.skipSpace();
    if (this.text[this.at] !== bracket) return false;
    this.at++;
    return true;
  }

  private continues(bracket: string): boolean {
    if (this.closes(bracket)) return false;
    this.expect(',');
    return true;
  }

  private expect(character: string): void {
    if (this.text[this.at] !== character)
      this.fail('invalid_jsonl', `expected "${character}" at column ${this.at + 1}`);
    this.at++;
  }

  private word<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.at))
      this.fail('invalid_jsonl', `not a JSON value at column ${this.at + 1}`);
    this.at += word.length;
    return value;
  }

  private number(): number {
    numberPattern.lastIndex = this.at;
    const match = numberPattern.exec(this.text);
    if (match === null) this.fail('invalid_jsonl', `not a JSON value at column ${this.at + 1}`);
    const value = Number(match[0]);
    if (!Number.isFinite(value))
      this.fail('invalid_content', `the number ${match[0].slice(0, 40)} is out of range`);
    this.at = numberPattern.lastIndex;
    return value;
  }

  private string(): string {
    const end = this.stringEnd();
    const raw = this.text.slice(this.at, end);
    const value = raw.includes('\\') ? (JSON.parse(raw) as string) : raw.slice(1, -1);
    if (value.includes('\u0000')) this.fail('invalid_content', 'NUL character not allowed');
    if (!value.isWellFormed())
      this.fail('invalid_content', 'lone surrogate not allowed: the text is not valid Unicode');
    this.at = end;
    return value;
  }

  /** One past the closing quote of the string that starts here. */
  private stringEnd(): number {
    for (let i = this.at + 1; i < this.text.length; i++) {
      const code = this.text.charCodeAt(i);
      if (code === 0x22) return i + 1;
      if (code < 0x20) break;
      if (code !== 0x5c) continue;
      escapePattern.lastIndex = i;
      if (!escapePattern.test(this.text)) break;
      i = escapePattern.lastIndex - 1;
    }
    this.fail('invalid_jsonl', `the string that starts at column ${this.at + 1} is not valid`);
  }
}

/**
 * Parses one line.
 * @throws JsonError with a code, the path and the column.
 */
export function parseStrictJson(text: string): unknown {
  return new Parser(text).document();
}
