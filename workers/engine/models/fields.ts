/** Strict reading of untrusted JSON objects: every getter checks type and range and names the field when it refuses. */

/** A model folder's JSON that this engine cannot or will not use; `field` is the path of the culprit. */
export class ModelConfigError extends Error {
  readonly code = 'model_config_invalid';
  readonly field: string;

  constructor(field: string, problem: string) {
    super(`config.json: ${field} ${problem}`);
    this.name = 'ModelConfigError';
    this.field = field;
  }
}

export class Fields {
  readonly #object: Record<string, unknown>;
  readonly #path: string;

  constructor(value: unknown, path = '') {
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      throw new ModelConfigError(path || 'the top level', 'must be an object');
    }
    this.#object = value as Record<string, unknown>;
    this.#path = path;
  }

  /** The raw value; null and absent are alike, as in Hugging Face's configs. */
  get(key: string): unknown {
    return Object.hasOwn(this.#object, key) ? (this.#object[key] ?? undefined) : undefined;
  }

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  path(key: string): string {
    return this.#path === '' ? key : `${this.#path}.${key}`;
  }

  refuse(key: string, problem: string): never {
    throw new ModelConfigError(this.path(key), problem);
  }

  /** An integer in [min, max]. Without a fallback the field is required. */
  integer(key: string, min: number, max: number, fallback?: number): number {
    const value = this.#required(key, fallback);
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      this.refuse(key, `must be an integer from ${min} to ${max}, not ${JSON.stringify(value)}`);
    }
    return value;
  }

  /** A finite number in [min, max]. Without a fallback the field is required. */
  number(key: string, min: number, max: number, fallback?: number): number {
    const value = this.#required(key, fallback);
    if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value > max) {
      this.refuse(key, `must be a number from ${min} to ${max}, not ${JSON.stringify(value)}`);
    }
    return value;
  }

  boolean(key: string, fallback?: boolean): boolean {
    const value = this.#required(key, fallback);
    if (typeof value !== 'boolean') this.refuse(key, `must be true or false, not ${JSON.stringify(value)}`);
    return value;
  }

  string(key: string, fallback?: string): string {
    const value = this.#required(key, fallback);
    if (typeof value !== 'string') this.refuse(key, `must be a string, not ${JSON.stringify(value)}`);
    return value;
  }

  /** One id or a list of ids in [0, limit); absent gives an empty list. */
  tokenIds(key: string, limit: number): number[] {
    const value = this.get(key);
    const list = value === undefined ? [] : Array.isArray(value) ? value : [value];
    for (const id of list) {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= limit) {
        this.refuse(key, `must hold token ids below ${limit}, not ${JSON.stringify(id)}`);
      }
    }
    return list as number[];
  }

  #required(key: string, fallback: unknown): unknown {
    const value = this.get(key) ?? fallback;
    if (value === undefined) this.refuse(key, 'is missing');
    return value;
  }
}
