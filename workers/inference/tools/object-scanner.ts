/**
 * Reads a tool call's JSON as it arrives: its name, and the text of its arguments before they are complete. Looks at
 * braces, strings and top-level keys only; whether the JSON is valid is not its business.
 */

const ARGUMENT_KEYS = new Set(['arguments', 'parameters']);

export class ObjectScanner {
  /** Everything read so far, with what announced the call. */
  raw: string;
  name: string | null;
  done = false;
  /** True when this can be no call. */
  failed = false;
  /** With a name given, the object itself holds the arguments. */
  readonly #isArguments: boolean;
  #depth = 0;
  #inString = false;
  #escaped = false;
  #string = '';
  #key: string | null = null;
  #expectsValue = false;
  #arguments = '';
  #taken = 0;
  #quoted = false;
  #sawArguments = false;

  constructor(lead: string, name: string | null) {
    this.raw = lead;
    this.name = name;
    this.#isArguments = name !== null;
  }

  /** Reads on and returns how many characters belong to the call. */
  push(text: string): number {
    for (let i = 0; i < text.length; i++) {
      const character = text[i]!;
      this.raw += character;
      this.#read(character);
      if (this.done || this.failed) return i + 1;
    }
    return text.length;
  }

  /** The arguments' text that has not been taken yet. */
  takeArguments(): string {
    if (this.#quoted && !this.done) return '';
    if (this.done && !this.#sawArguments && !this.#isArguments) {
      this.#sawArguments = true;
      return '{}';
    }
    const text = this.#arguments.slice(this.#taken);
    this.#taken = this.#arguments.length;
    return text;
  }

  #read(character: string): void {
    const capturing = this.#isArguments || this.#capturing;
    if (this.#inString) {
      this.#readString(character, capturing);
      return;
    }
    if (this.#depth === 0 && character !== '{') {
      if (character.trim() !== '') this.failed = true;
      return;
    }
    if (character === '"') {
      this.#inString = true;
      this.#string = '';
      if (capturing) this.#arguments += character;
      else if (this.#depth === 1 && this.#expectsValue && this.#isArgumentKey) this.#quoted = true;
      return;
    }
    if (character === '{' || character === '[') {
      this.#depth++;
      if (this.#depth === 2 && this.#expectsValue && this.#isArgumentKey) this.#sawArguments = true;
      if (capturing || this.#capturing) this.#arguments += character;
      return;
    }
    if (capturing) this.#arguments += character;
    if (character === '}' || character === ']') {
      this.#depth--;
      if (this.#depth === 1) this.#expectsValue = false;
      if (this.#depth === 0) this.done = true;
    } else if (this.#depth === 1 && character === ':') this.#expectsValue = true;
    else if (this.#depth === 1 && character === ',') this.#expectsValue = false;
  }

  #readString(character: string, capturing: boolean): void {
    if (capturing) this.#arguments += character;
    if (this.#escaped) {
      this.#string += character;
      this.#escaped = false;
      return;
    }
    if (character === '\\') {
      this.#string += character;
      this.#escaped = true;
      return;
    }
    if (character !== '"') {
      this.#string += character;
      return;
    }
    this.#inString = false;
    if (capturing || this.#depth !== 1) return;
    if (!this.#expectsValue) this.#key = this.#string;
    else if (this.#key === 'name') this.name = unquoted(this.#string);
    else if (this.#isArgumentKey) {
      this.#arguments = unquoted(this.#string);
      this.#sawArguments = true;
    }
  }

  get #isArgumentKey(): boolean {
    return this.#key !== null && ARGUMENT_KEYS.has(this.#key);
  }

  /** Inside the value of the arguments' key. */
  get #capturing(): boolean {
    return this.#depth >= 2 && this.#expectsValue && this.#isArgumentKey;
  }
}

function unquoted(text: string): string {
  try {
    return JSON.parse(`"${text}"`) as string;
  } catch {
    return text;
  }
}
