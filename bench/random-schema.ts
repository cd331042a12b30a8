/**
 * Random JSON schemas within the subset that constrained decoding supports, the same for the same seed. Sizes are
 * bounded so that an answer ends within the context of the shipped model.
 */
import { uniformAt } from '../workers/engine/rng.ts';

type Json = Record<string, unknown>;

class Dice {
  readonly #seed: number;
  #draws = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** A whole number from `low` to `high`. */
  whole(low: number, high: number): number {
    return low + Math.floor(uniformAt(this.#seed, 77, this.#draws++) * (high - low + 1));
  }

  chance(probability: number): boolean {
    return uniformAt(this.#seed, 77, this.#draws++) < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.whole(0, items.length - 1)]!;
  }
}

const NAMES = [
  'name',
  'count',
  'item',
  'day',
  'colour',
  'a b',
  'é',
  'quote"d',
  'x_1',
  'nested/key',
  'tags',
  'na',
];
const PATTERNS = [
  '^[A-Z]{2}-\\d{3}$',
  '(red|green|blue)',
  '[a-f0-9]{4,8}',
  '\\w{1,6}@\\w{2,5}\\.(com|org)',
  '[^,]{1,9}',
];

export function randomSchema(seed: number): Json {
  const dice = new Dice(seed);
  const definitions: Json = {};
  const root = dice.chance(0.85) ? object(dice, 0, definitions) : array(dice, 0, definitions);
  return Object.keys(definitions).length > 0 ? { ...root, $defs: definitions } : root;
}

function value(dice: Dice, depth: number, definitions: Json): Json {
  const leaves = [string, string, number, number, constant, union];
  const make = dice.pick(depth >= 3 ? leaves : [...leaves, object, array, reference]);
  return make(dice, depth + 1, definitions);
}

function object(dice: Dice, depth: number, definitions: Json): Json {
  const names = NAMES.filter(() => dice.chance(0.25)).slice(0, 4);
  const properties = Object.fromEntries(names.map((name) => [name, value(dice, depth, definitions)]));
  const schema: Json = { type: 'object', properties, required: names.filter(() => dice.chance(0.7)) };
  // Further properties have names of any length, so an answer need not end; their own test is beside the grammar's.
  if (names.length === 0 || dice.chance(0.7)) schema.additionalProperties = false;
  return schema;
}

function array(dice: Dice, depth: number, definitions: Json): Json {
  const [minItems, spread] = [dice.whole(0, 2), dice.whole(0, 2)];
  const schema: Json = {
    type: 'array',
    items: value(dice, depth, definitions),
    minItems,
    maxItems: minItems + spread,
  };
  if (dice.chance(0.25)) schema.prefixItems = [value(dice, depth, definitions)];
  return schema;
}

function string(dice: Dice): Json {
  switch (dice.whole(0, 3)) {
    case 0: {
      const minLength = dice.whole(0, 3);
      return { type: 'string', minLength, maxLength: minLength + dice.whole(0, 12) };
    }
    case 1:
      return { type: 'string', pattern: dice.pick(PATTERNS) };
    case 2:
      return { type: 'string', format: dice.pick(['date', 'time', 'date-time', 'uuid', 'ipv4', 'email']) };
    default:
      return { type: 'string', maxLength: 20 };
  }
}

function number(dice: Dice): Json {
  const type = dice.pick(['integer', 'number']);
  const low = dice.whole(-1200, 1200) / dice.pick([1, 1, 10, 100]);
  switch (dice.whole(0, 4)) {
    case 0:
      return { type };
    case 1:
      return { type, minimum: low };
    case 2:
      return { type, exclusiveMaximum: low };
    case 3:
      return { type: 'integer', minimum: 0, maximum: 90, multipleOf: dice.whole(1, 12) };
    default:
      return { type, minimum: low, maximum: low + dice.whole(1, 500) };
  }
}

function constant(dice: Dice): Json {
  const values = [null, true, 0, -1.5, 'red', 'a "quote"', 'ö\n', ['x', 1], { k: [false] }];
  return dice.chance(0.3)
    ? { const: dice.pick(values) }
    : { enum: values.filter(() => dice.chance(0.5)).concat('z') };
}

function union(dice: Dice): Json {
  if (dice.chance(0.4)) return { type: ['string', 'null', 'boolean'], maxLength: 8 };
  return { anyOf: [number(dice), { type: 'string', maxLength: 6 }, { type: 'null' }] };
}

/** A list that ends: each link is the next one or null. */
function reference(_dice: Dice, _depth: number, definitions: Json): Json {
  definitions.link = {
    type: 'object',
    properties: { value: { type: 'boolean' }, next: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/link' }] } },
    required: ['value', 'next'],
    additionalProperties: false,
  };
  return { $ref: '#/$defs/link' };
}
