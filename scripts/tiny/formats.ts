/**
 * Structured text: records to read and small JSON objects, lists and labels to write. The base model meets these
 * shapes with other subjects than the shipped example task, so the task itself is left for fine-tuning to teach.
 */
import type { Random } from './random.ts';
import { conversation, type Sample } from './sample.ts';
import {
  animals,
  capital,
  colours,
  days,
  foods,
  goods,
  inventedId,
  inventedName,
  jobs,
  listed,
  people,
  petNames,
  places,
  plural,
} from './words.ts';

type Value = string | number;

function fields(random: Random): [string, Value][] {
  const name = random.chance(0.75) ? random.pick(people) : inventedName(random);
  const pools: Record<string, () => Value> = {
    name: () => name,
    age: () => random.int(6, 60),
    job: () => random.pick(jobs),
    pet: () => random.pick(animals),
    colour: () => random.pick(colours),
    place: () => random.pick(places),
    food: () => random.pick(foods),
    day: () => random.pick(days),
    item: () => random.pick(goods),
    number: () => random.int(1, 20),
    id: () => inventedId(random),
    owner: () => random.pick(people),
  };
  return random.sample(Object.keys(pools), random.int(2, 4)).map((key) => [key, pools[key]!()]);
}

/** A record in the prompt, one of its values in the answer. */
function recordQuestion(random: Random): Sample {
  const record = fields(random);
  const [key, value] = random.pick(record);
  const shape = random.pick([
    () => record.map(([k, v]) => `${capital(k)}: ${v}`).join('\n'),
    () => record.map(([k, v]) => `${k} = ${v}`).join(', '),
    () => JSON.stringify(Object.fromEntries(record)),
  ])();
  return conversation([{ question: `${shape}\nWhat is the ${key}?`, answer: `The ${key} is ${value}.` }]);
}

/** A record rewritten as JSON, or JSON rewritten as lines. */
function recordRewrite(random: Random): Sample {
  const record = fields(random);
  const lines = record.map(([k, v]) => `${k}: ${v}`).join('\n');
  const json = JSON.stringify(Object.fromEntries(record));
  if (random.chance(0.7)) return conversation([{ question: `Write this as JSON.\n${lines}`, answer: json }]);
  return conversation([{ question: `Write this as lines.\n${json}`, answer: lines }]);
}

/** A sentence about a pet written as JSON. */
function petCard(random: Random): Sample {
  const owner = random.chance(0.8) ? random.pick(people) : inventedName(random);
  const pet = random.pick(animals);
  const name = random.pick(petNames);
  const age = random.int(2, 15);
  const passage = random.pick([
    `${owner} has a ${pet} called ${name}. It is ${age} years old.`,
    `${name} is a ${pet}. It is ${age} years old and lives with ${owner}.`,
    `The ${pet} of ${owner} is ${age} years old. Its name is ${name}.`,
  ]);
  return conversation([
    { question: `Write a pet card.\n${passage}`, answer: JSON.stringify({ owner, pet, name, age }) },
  ]);
}

/** Things named in a sentence, written as a list. */
function listOfThings(random: Random): Sample {
  const things = random.sample(goods, random.int(2, 4));
  const amounts = things.map(() => random.int(2, 9));
  const passage = `${random.pick(people)} bought ${listed(things.map((t, i) => `${amounts[i]} ${plural(t)}`))}.`;
  return random.chance(0.5)
    ? conversation([
        {
          question: `${passage} Make a list.`,
          answer: things.map((t, i) => `- ${amounts[i]} ${plural(t)}`).join('\n'),
        },
      ])
    : conversation([{ question: `${passage} Name the things.`, answer: `${listed(things)}.` }]);
}

export function formatSample(random: Random): Sample {
  return random.weighted([
    [3, recordQuestion],
    [3, recordRewrite],
    [3, petCard],
    [2, listOfThings],
  ])(random);
}
