/**
 * A strict JSON reader for headers of untrusted files: refuses duplicate keys (JSON.parse silently keeps the last),
 * deep nesting and anything after the value. Numbers must be plain non-negative integers: headers hold nothing else.
 */

export type StrictJson = string | number | StrictJson[] | Map<string, StrictJson>;

/** @throws Error saying what is wrong and at which character */
export function parseStrictJson(text: string, depthMax: number): StrictJson {
  return new Reader(text, depthMax).document();
}

class Reader {
  readonly #text: string;
  readonly #depthMax: number;
  #at = 0;

  constructor(text: string, depthMax: number) {
    this.#text = text;
    this.#depthMax = depthMax;
  }

  document(): StrictJson {
    const value = this.#value(1);
    if (this.#at !== this.#text.length) this.#fail('unexpected text');
    return value;
  }

  #value(depth: number): StrictJson {
    if (depth > this.#depthMax) this.#fail(`nesting deeper than ${this.#depthMax}`);
    this.#skipSpace();
    const value = this.#bare(depth);
    this.#skipSpace();
    return value;
  }

  #bare(depth: number): StrictJson {
    switch (this.#text[this.#at]) {
      case '{':
        return this.#object(depth);
      case '[':
        return this.#array(depth);
      case '"':
        return this.#string();
      default:
        return this.#integer();
    }
  }

  #object(depth: number): Map<string, StrictJson> {
    const entries = new Map<string, StrictJson>();
    this.#expect('{');
    this.#skipSpace();
    while (this.#text[this.#at] !== '}') {
      if (entries.size > 0) this.#expect(',');
      this.#skipSpace();
      const key = this.#string();
      if (entries.has(key)) this.#fail(`duplicate key ${JSON.stringify(key)}`);
      this.#skipSpace();
      this.#expect(':');
      entries.set(key, this.#value(depth + 1));
    }
    this.#at++;
    return entries;
  }

  #array(depth: number): StrictJson[] {
    const items: StrictJson[] = [];
    this.#expect('[');
    this.#skipSpace();
    while (this.#text[this.#at] !== ']') {
      if (items.length > 0) this.#expect(',');
      items.push(this.#value(depth + 1));
    }
    this.#at++;
    return items;
  }

  /** Finds the closing quote; JSON.parse judges the escapes. */
  #string(): string {
    const start = this.#at;
    this.#expect('"');
    while (this.#text[this.#at] !== '"') {
      if (this.#at >= this.#text.length) this.#fail('unterminated string');
      this.#at += this.#text[this.#at] === '\\' ? 2 : 1;
    }
    this.#at++;
    return JSON.parse(this.#text.slice(start, this.#at)) as string;
  }

  #integer(): number {
    const ahead = this.#text.slice(this.#at, this.#at + 18);
    const digits = /^(?:0|[1-9]\d{0,15})(?![\d.eE])/.exec(ahead)?.[0] ?? '';
    if (digits === '' || !Number.isSafeInteger(Number(digits))) this.#fail('expected a non-negative integer');
    this.#at += digits.length;
    return Number(digits);
  }

  #skipSpace(): void {
    while (' \t\r\n'.includes(this.#text[this.#at] ?? 'x')) this.#at++;
  }

  #expect(character: string): void {
    if (this.#text[this.#at] !== character) this.#fail(`expected ${JSON.stringify(character)}`);
    this.#at++;
  }

  #fail(problem: string): never {
    throw new Error(`${problem} at character ${this.#at}`);
  }
}
