/**
 * Regular expressions of JSON Schema (`pattern`) as grammars over the characters between a JSON string's quotes.
 * The whole string is generated from the expression, so an expression without anchors matches too. Classes are cut to
 * characters that need no escape (and the escapes of the few that do); what no context-free rule can say (look-around,
 * references, word boundaries) is refused.
 */
import { PLAIN } from './json-text.ts';
import { choice, type Node, oneOf, repeat, sequence, text } from './nodes.ts';
import { complement, intersect, type Ranges } from './ranges.ts';

export class RegexRefusal extends Error {}

const REPEAT_MAX = 1000;
const LAST = 0x10ffff;
const DIGITS: Ranges = [[0x30, 0x39]];
const WORD: Ranges = [
  [0x30, 0x39],
  [0x41, 0x5a],
  [0x5f, 0x5f],
  [0x61, 0x7a],
];
const SPACE: Ranges = [
  [0x09, 0x0d],
  [0x20, 0x20],
];
const LINE_ENDS: Ranges = [
  [0x0a, 0x0a],
  [0x0d, 0x0d],
];
const CONTROL: Record<string, number> = { n: 0x0a, r: 0x0d, t: 0x09, f: 0x0c, v: 0x0b, '0': 0x00 };

/** @throws RegexRefusal with a reason that completes "'pattern' …". */
export function regexNode(pattern: string): Node {
  return new Parser(pattern).parse();
}

class Parser {
  readonly #characters: string[];
  #at = 0;
  #depth = 0;

  constructor(pattern: string) {
    this.#characters = [...pattern];
  }

  parse(): Node {
    const node = this.#alternatives(true);
    if (this.#at < this.#characters.length) this.#refuse(`has an unmatched '${this.#next()}'.`);
    return node;
  }

  /** `outer`: anchors may stand at both ends. */
  #alternatives(outer: boolean): Node {
    if (++this.#depth > 32) this.#refuse('nests too many groups.');
    const options = [this.#branch(outer)];
    while (this.#take('|')) options.push(this.#branch(outer));
    this.#depth--;
    return choice(...options);
  }

  #branch(outer: boolean): Node {
    if (this.#peek() === '^') {
      if (!outer) this.#refuse("has an anchor ('^') inside a group, which is not supported.");
      this.#at++;
    }
    const items: Node[] = [];
    for (let next = this.#peek(); next !== undefined && next !== '|' && next !== ')'; next = this.#peek()) {
      if (next === '$') {
        this.#at++;
        if (!outer || (this.#peek() !== undefined && this.#peek() !== '|'))
          this.#refuse("has an anchor ('$') before its end, which is not supported.");
        break;
      }
      items.push(this.#quantified(this.#atom()));
    }
    return items.length === 0 ? text('') : sequence(...items);
  }

  #quantified(item: Node): Node {
    const [min, max] = this.#times();
    if (this.#peek() === '?') this.#at++; // lazy: the same language
    if (this.#peek() === '+' || this.#peek() === '*') this.#refuse('repeats a repetition.');
    return min === 1 && max === 1 ? item : repeat(item, min, max);
  }

  #times(): [min: number, max: number | null] {
    if (this.#take('*')) return [0, null];
    if (this.#take('+')) return [1, null];
    if (this.#take('?')) return [0, 1];
    const counted = /^\{(\d{1,6})(,(\d{0,6}))?\}/.exec(
      this.#characters.slice(this.#at, this.#at + 16).join(''),
    );
    if (!counted) return [1, 1];
    this.#at += counted[0].length;
    const min = Number(counted[1]);
    const max = counted[2] === undefined ? min : counted[3] === '' ? null : Number(counted[3]);
    if (Math.max(min, max ?? 0) > REPEAT_MAX) this.#refuse(`repeats more than ${REPEAT_MAX} times.`);
    if (max !== null && max < min) this.#refuse('has a repetition whose bounds are the wrong way round.');
    return [min, max];
  }

  #atom(): Node {
    const next = this.#next();
    if (next === '(') return this.#group();
    if (next === '[') return this.#class();
    if (next === '.') return characters(complement(LINE_ENDS), true);
    if (next === '\\') return this.#escape();
    if (next === '*' || next === '+' || next === '?') this.#refuse(`has nothing before its '${next}'.`);
    return characters([[next.codePointAt(0)!, next.codePointAt(0)!]], false);
  }

  #group(): Node {
    if (this.#take('?')) {
      const kind = this.#next();
      if (kind === '<' && this.#peek() !== '=' && this.#peek() !== '!') {
        while (this.#peek() !== undefined && this.#next() !== '>');
      } else if (kind !== ':') this.#refuse('has a look-around or a flag group, which is not supported.');
    }
    const inner = this.#alternatives(false);
    if (!this.#take(')')) this.#refuse("has an unmatched '('.");
    return inner;
  }

  #escape(): Node {
    const escaped = this.#escaped(false);
    return characters(escaped.ranges, escaped.negated);
  }

  /** What follows a backslash: a class or one character. */
  #escaped(inClass: boolean): { ranges: Ranges; negated: boolean; single: number | null } {
    const name = this.#next();
    const set: Record<string, Ranges> = { d: DIGITS, w: WORD, s: SPACE };
    const known = set[name.toLowerCase()];
    if (known && name === name.toLowerCase()) return { ranges: known, negated: false, single: null };
    if (known) return { ranges: complement(known), negated: true, single: null };
    const point = this.#escapedPoint(name, inClass);
    return { ranges: [[point, point]], negated: false, single: point };
  }

  #escapedPoint(name: string, inClass: boolean): number {
    const control = CONTROL[name];
    if (control !== undefined) return control;
    if (name === 'b' && inClass) return 0x08;
    if (name === 'x') return this.#hex(2);
    if (name === 'u') {
      if (!this.#take('{')) return this.#hex(4);
      let digits = '';
      while (this.#peek() !== undefined && this.#peek() !== '}') digits += this.#next();
      this.#at++;
      if (!/^[0-9a-fA-F]{1,6}$/.test(digits) || Number.parseInt(digits, 16) > LAST)
        this.#refuse('has a bad \\u{…}.');
      return Number.parseInt(digits, 16);
    }
    if (/[A-Za-z0-9]/.test(name)) this.#refuse(`uses '\\${name}', which is not supported.`);
    return name.codePointAt(0)!;
  }

  #hex(count: number): number {
    const digits = this.#characters.slice(this.#at, this.#at + count).join('');
    if (!new RegExp(`^[0-9a-fA-F]{${count}}$`).test(digits)) this.#refuse('has a bad hexadecimal escape.');
    this.#at += count;
    return Number.parseInt(digits, 16);
  }

  #class(): Node {
    const negated = this.#take('^');
    const ranges: [number, number][] = [];
    let wide = false;
    while (this.#peek() !== ']') {
      const first = this.#member();
      if (first.single === null) {
        wide ||= first.negated;
        for (const [low, high] of first.ranges) ranges.push([low, high]);
        continue;
      }
      let last = first.single;
      if (this.#peek() === '-' && this.#characters[this.#at + 1] !== ']') {
        this.#at++;
        const end = this.#member();
        if (end.single === null || end.single < first.single) this.#refuse('has a bad range in a class.');
        last = end.single as number;
      }
      ranges.push([first.single, last]);
    }
    this.#at++;
    return negated ? characters(complement(ranges), true) : characters(ranges, wide);
  }

  #member(): { ranges: Ranges; negated: boolean; single: number | null } {
    const next = this.#next();
    if (next === '\\') return this.#escaped(true);
    const point = next.codePointAt(0)!;
    return { ranges: [[point, point]], negated: false, single: point };
  }

  #peek(): string | undefined {
    return this.#characters[this.#at];
  }

  #next(): string {
    const next = this.#characters[this.#at++];
    if (next === undefined) this.#refuse('ends in the middle of an expression.');
    return next as string;
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false;
    this.#at++;
    return true;
  }

  #refuse(why: string): never {
    throw new RegexRefusal(why);
  }
}

/** One character of `ranges` as it stands in a JSON string; `open` classes (".", "[^a]") leave escapes out. */
function characters(ranges: Ranges, open: boolean): Node {
  const plain = intersect(ranges, PLAIN);
  const options = plain.length > 0 ? [oneOf(plain) ?? asciiOf(plain, open)] : [];
  if (!open) {
    for (const [point, spelling] of ESCAPES) {
      if (ranges.some(([low, high]) => low <= point && point <= high)) options.push(text(spelling));
    }
  }
  if (options.length === 0) throw new RegexRefusal('has a class that no character of a JSON string fits.');
  return choice(...options);
}

/** Without the characters beyond ASCII: right for "[^é]", which means most of them, but not for a range of them. */
function asciiOf(ranges: Ranges, open: boolean): Node {
  if (!open)
    throw new RegexRefusal('has a class of more than 256 characters beyond ASCII, but not all of them.');
  return oneOf(intersect(ranges, [[0, 0x7f]]))!;
}

const ESCAPES: [point: number, escape: string][] = [0x22, 0x5c, 0x08, 0x09, 0x0a, 0x0c, 0x0d].map((point) => [
  point,
  JSON.stringify(String.fromCodePoint(point)).slice(1, -1),
]);
