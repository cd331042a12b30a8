/**
 * From an answer's text to text and tool calls, as the text grows. Exact where the answer was constrained, and lenient
 * about white space and the order of keys where it was not. A call of no known tool stays text.
 * Knows formats; must not know tokens or the wire.
 */
import type { ToolFormat } from './format.ts';
import { ObjectScanner } from './object-scanner.ts';

export type Part =
  | { type: 'text'; text: string }
  | { type: 'call'; name: string }
  | { type: 'arguments'; text: string };

export class ToolCallParser {
  readonly #names: ReadonlySet<string>;
  readonly #format: ToolFormat;
  /** What announces a call; '' when a bare JSON object does. */
  readonly #marker: string;
  /** What closes one, white space aside. */
  readonly #closer: string;
  readonly #isObject: boolean;
  #state: 'text' | 'call' | 'after' | 'plain' = 'text';
  /** Not yet decided: white space before a call, the beginning of a marker, or a call that may be none. */
  #held = '';
  #scanner: ObjectScanner | null = null;
  #told = false;
  #atLineStart = true;
  calls = 0;

  constructor(format: ToolFormat, names: Iterable<string>) {
    const brace = format.begin.indexOf('{');
    this.#format = format;
    this.#names = new Set(names);
    this.#isObject = brace >= 0;
    this.#marker = brace >= 0 ? format.begin.slice(0, brace).trim() : format.begin;
    this.#closer = brace >= 0 ? format.end.slice(format.end.indexOf('}') + 1).trim() : format.end.trim();
  }

  push(text: string): Part[] {
    this.#held += text;
    const parts: Part[] = [];
    while (this.#step(parts));
    return joined(parts);
  }

  /** What is left at the end: a call that never became one is text. */
  finish(): Part[] {
    const parts: Part[] = [];
    if (this.#state === 'call' && !this.#told) this.#say(parts, this.#scanner!.raw);
    if (this.#state !== 'after' || this.#held.trim() !== '') this.#say(parts, this.#held);
    this.#held = '';
    return joined(parts);
  }

  /** Does one thing with the held text; false when more text is needed. */
  #step(parts: Part[]): boolean {
    if (this.#held === '') return false;
    if (this.#state === 'call') return this.#scan(parts);
    if (this.#state === 'after') return this.#close();
    if (this.#state === 'plain') {
      this.#say(parts, this.#held);
      this.#held = '';
      return false;
    }
    return this.#isObject ? this.#seekObject(parts) : this.#seekWords(parts);
  }

  #seekObject(parts: Part[]): boolean {
    const trimmed = this.#held.trimStart();
    if (this.#marker === '') {
      if (trimmed === '') return false;
      if (trimmed[0] !== '{' || (this.calls === 0 && !this.#atLineStart)) {
        this.#state = 'plain';
        return true;
      }
      this.#beginCall(this.#held.slice(0, this.#held.length - trimmed.length), trimmed);
      return true;
    }
    const at = this.#held.indexOf(this.#marker);
    if (at < 0) {
      this.#release(parts, possibleStart(this.#held, this.#marker));
      return false;
    }
    const after = this.#held.slice(at + this.#marker.length);
    if (after.trimStart() === '') return false;
    this.#say(parts, this.#held.slice(0, at).trimEnd());
    if (after.trimStart()[0] !== '{') {
      this.#say(parts, this.#held.slice(at, at + this.#marker.length));
      this.#held = after;
      return true;
    }
    this.#beginCall(this.#held.slice(at, this.#held.length - after.trimStart().length), after.trimStart());
    return true;
  }

  /** Calls in words begin a line: marker, the name of a tool, and what stands before its arguments. */
  #seekWords(parts: Part[]): boolean {
    const line = this.#atLineStart ? 0 : this.#held.indexOf('\n') + 1;
    if (line === 0 && !this.#atLineStart) {
      this.#release(parts, this.#held.length);
      return false;
    }
    const rest = this.#held.slice(line);
    const openings = [...this.#names].map(
      (name) => [name, this.#marker + name + this.#format.middle] as const,
    );
    const found = openings.find(([, opening]) => rest.startsWith(opening));
    if (found) {
      const after = rest.slice(found[1].length);
      if (after === '') return false;
      this.#say(parts, this.#held.slice(0, line).trimEnd());
      this.#beginCall(found[1], after, found[0]);
      return true;
    }
    if (openings.some(([, opening]) => opening.startsWith(rest))) {
      this.#release(parts, Math.max(0, line - 1));
      return false;
    }
    const next = this.#held.indexOf('\n', line);
    this.#say(parts, this.#held.slice(0, next < 0 ? this.#held.length : next));
    this.#held = next < 0 ? '' : this.#held.slice(next);
    this.#atLineStart = false;
    return this.#held !== '';
  }

  #beginCall(lead: string, rest: string, name: string | null = null): void {
    this.#scanner = new ObjectScanner(lead, name);
    this.#told = false;
    this.#state = 'call';
    this.#held = rest;
  }

  #scan(parts: Part[]): boolean {
    const scanner = this.#scanner!;
    const used = scanner.push(this.#held);
    this.#held = this.#held.slice(used);
    const known = scanner.name !== null && this.#names.has(scanner.name);
    if (scanner.failed || (scanner.name !== null && !known) || (scanner.done && !known)) {
      this.#say(parts, scanner.raw);
      this.#scanner = null;
      this.#state = this.#marker === '' ? 'plain' : 'text';
      this.#atLineStart = false;
      return true;
    }
    if (!known) return false;
    if (!this.#told) {
      parts.push({ type: 'call', name: scanner.name! });
      this.#told = true;
      this.calls++;
    }
    const text = scanner.takeArguments();
    if (text !== '') parts.push({ type: 'arguments', text });
    if (!scanner.done) return false;
    this.#state = 'after';
    return true;
  }

  /** Passes over what closes a call; after it comes text or another call. */
  #close(): boolean {
    const rest = this.#held.trimStart();
    const closer = this.#closer === '' && this.#marker === '' ? ';' : this.#closer;
    if (closer !== '' && rest.startsWith(closer)) {
      this.#held = rest.slice(closer.length);
    } else if (rest === '' || (closer !== '' && closer.startsWith(rest))) return false;
    else if (closer !== '' && closer !== ';') this.#held = rest;
    this.#state = 'text';
    this.#atLineStart = this.#isObject || /^\s*\n/.test(this.#held) || this.#held === '';
    if (!this.#isObject && this.#atLineStart) this.#held = this.#held.replace(/^\s*\n/, '');
    return this.#held !== '';
  }

  /** Says the first `length` held characters, but not white space that may stand before a call. */
  #release(parts: Part[], length: number): void {
    const text = this.#held.slice(0, length).trimEnd();
    this.#say(parts, text);
    if (text !== '') this.#atLineStart = false;
    this.#held = this.#held.slice(text.length);
  }

  #say(parts: Part[], text: string): void {
    if (text !== '') parts.push({ type: 'text', text });
  }
}

/** Length of the held text before what could be the beginning of `marker` at its end. */
function possibleStart(held: string, marker: string): number {
  for (let length = Math.min(marker.length - 1, held.length); length > 0; length--) {
    if (held.endsWith(marker.slice(0, length))) return held.length - length;
  }
  return held.length;
}

function joined(parts: Part[]): Part[] {
  const out: Part[] = [];
  for (const part of parts) {
    const last = out.at(-1);
    if (last && last.type === part.type && last.type !== 'call' && part.type !== 'call')
      last.text += part.text;
    else out.push({ ...part });
  }
  return out;
}
