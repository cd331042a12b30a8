/**
 * Text that a chat template produced, cut into plain parts and control tokens. User text is guarded before rendering
 * so that nothing a user writes can become a control token.
 */

export interface RenderedPart {
  text: string;
  /** True for a special token written by the template itself. */
  control: boolean;
}

/** Noncharacters of Unicode: never valid in interchange, so hardly ever in user text; the first unused one is taken. */
const guards = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));

function* strings(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value;
  else if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      yield key;
      yield* strings(item);
    }
  }
}

function mapStrings(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === 'string') return change(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [change(key), mapStrings(item, change)]),
    );
  }
  return value;
}

/**
 * Breaks every special-token string inside user values with a guard character after its first character.
 * Returns the guarded values and the guard (null when nothing had to be guarded).
 * @throws RangeError when the text uses all 32 guard characters as well as a special token.
 */
export function guardSpecials<T>(
  value: T,
  specials: readonly string[],
): { value: T; guard: string | null; found: number } {
  let found = 0;
  let used = '';
  for (const text of strings(value)) {
    for (const special of specials) {
      for (let at = text.indexOf(special); at >= 0; at = text.indexOf(special, at + special.length)) found++;
    }
  }
  if (found === 0) return { value, guard: null, found };
  for (const text of strings(value)) used += text.replace(/[^\ufdd0-\ufdef]/g, '');
  const guard = guards.find((candidate) => !used.includes(candidate));
  if (guard === undefined)
    throw new RangeError('text with special tokens uses all characters from U+FDD0 to U+FDEF');
  const change = (text: string) => {
    for (const special of specials) text = text.split(special).join(special[0] + guard + special.slice(1));
    return text;
  };
  return { value: mapStrings(value, change) as T, guard, found };
}

/**
 * Cuts rendered text at the special tokens (`specials` longest first) and takes the guard out of the plain parts.
 */
export function splitRendered(
  text: string,
  specials: readonly string[],
  guard: string | null,
): RenderedPart[] {
  const parts: RenderedPart[] = [];
  const plain = (slice: string) => {
    const clean = guard === null ? slice : slice.replaceAll(guard, '');
    if (clean !== '') parts.push({ text: clean, control: false });
  };
  if (specials.length === 0) {
    plain(text);
    return parts;
  }
  const pattern = new RegExp(
    specials.map((special) => special.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|'),
    'g',
  );
  let start = 0;
  for (const match of text.matchAll(pattern)) {
    plain(text.slice(start, match.index));
    parts.push({ text: match[0], control: true });
    start = match.index + match[0].length;
  }
  plain(text.slice(start));
  return parts;
}
