/**
 * A strict JSON reader for headers of untrusted files: refuses duplicate keys (JSON.parse silently keeps the last),
 * deep nesting and anything after the value. Numbers must be plain non-negative integers: headers hold nothing else.
 */

export type StrictJson = string | number | StrictJson[] | Map<string, StrictJson>;

/** @throws Error saying what is wrong and at which character */
export function parseStrictJson(text: string, depthMax: number): StrictJson {
  let at = 0;

  const fail = (problem: string): never => {
    throw new Error(`${problem} at character ${at}`);
  };
  const skipSpace = () => {
    while (' \t\r\n'.includes(text[at] ?? 'x')) at++;
  };
  const expect = (character: string) => {
    if (text[at] !== character) fail(`expected ${JSON.stringify(character)}`);
    at++;
  };

  function value(depth: number): StrictJson {
    if (depth > depthMax) fail(`nesting deeper than ${depthMax}`);
    skipSpace();
    const first = text[at];
    const result =
      first === '{' ? object(depth) : first === '[' ? array(depth) : first === '"' ? string() : integer();
    skipSpace();
    return result;
  }

  function object(depth: number): Map<string, StrictJson> {
    const entries = new Map<string, StrictJson>();
    expect('{');
    skipSpace();
    while (text[at] !== '}') {
      if (entries.size > 0) expect(',');
      skipSpace();
      const key = string();
      if (entries.has(key)) fail(`duplicate key ${JSON.stringify(key)}`);
      skipSpace();
      expect(':');
      entries.set(key, value(depth + 1));
    }
    at++;
    return entries;
  }

  function array(depth: number): StrictJson[] {
    const items: StrictJson[] = [];
    expect('[');
    skipSpace();
    while (text[at] !== ']') {
      if (items.length > 0) expect(',');
      items.push(value(depth + 1));
    }
    at++;
    return items;
  }

  function string(): string {
    const start = at;
    expect('"');
    while (text[at] !== '"') {
      if (at >= text.length) fail('unterminated string');
      at += text[at] === '\\' ? 2 : 1;
    }
    at++;
    return JSON.parse(text.slice(start, at)) as string;
  }

  function integer(): number {
    const digits = /^(?:0|[1-9]\d{0,15})(?![\d.eE])/.exec(text.slice(at, at + 18))?.[0];
    if (digits === undefined || !Number.isSafeInteger(Number(digits)))
      fail('expected a non-negative integer');
    at += digits!.length;
    return Number(digits);
  }

  const result = value(1);
  if (at !== text.length) fail('unexpected text');
  return result;
}
