/**
 * Reading comprehension: the prompt states facts drawn at random and the answer repeats one of them in a sentence.
 * No fact here can be known by heart, so this is what teaches the model to look things up in its context.
 */
import type { Random } from './random.ts';
import { conversation, type Sample, type Turn } from './sample.ts';
import {
  animals,
  capital,
  colours,
  days,
  foods,
  goods,
  inventedId,
  inventedName,
  inventedWord,
  listed,
  months,
  numberWords,
  people,
  petNames,
  places,
  plural,
  weathers,
  withArticle,
} from './words.ts';

function anyName(random: Random): string {
  return random.chance(0.8) ? random.pick(people) : inventedName(random);
}

function names(random: Random, count: number): string[] {
  const drawn = new Set<string>();
  while (drawn.size < count) drawn.add(anyName(random));
  return [...drawn];
}

function anyThing(random: Random): string {
  return random.chance(0.9) ? random.pick(goods) : inventedWord(random);
}

/** A note to a shop, and questions about it. */
function noteTurns(random: Random): { passage: string; turns: Turn[] } {
  const name = anyName(random);
  const item = random.pick(goods);
  const colour = random.pick(colours);
  const count = random.int(1, 12);
  const day = random.pick(days);
  const number = random.chance(0.7) ? numberWords[count]! : String(count);
  const things = `${colour} ${count === 1 ? item : plural(item)}`;
  const passage = random.pick([
    `${name} asked for ${number} ${things} and will come on ${day}.`,
    `On ${day} ${name} wants to fetch ${number} ${things}.`,
    `Please keep ${number} ${things} for ${name} until ${day}.`,
    `Dear shop, I need ${number} ${things} by ${day}. Yours, ${name}`,
    `Hello, my name is ${name}. Do you have ${number} ${things}? I can come on ${day}.`,
    `A note from ${name}: ${number} ${things}, please, for ${day}.`,
    `Good morning! I would like to have ${number} ${things}. I am free on ${day}. Best wishes, ${name}`,
  ]);
  const turns = [
    {
      question: random.pick(['Who is it for?', 'Who wants to buy something?', 'What is the name?']),
      answer: `It is for ${name}.`,
    },
    {
      question: random.pick(['What is wanted?', 'Which things are wanted?']),
      answer: `${capital(number)} ${things}.`,
    },
    {
      question: random.pick(['How many are wanted?', 'How many?', 'What is the count?']),
      answer: `The count is ${count}.`,
    },
    {
      question: random.pick(['Which colour?', 'What colour should it be?']),
      answer: `The colour is ${colour}.`,
    },
    { question: random.pick(['Which day?', 'When?', 'On which day?']), answer: `The day is ${day}.` },
    {
      question: random.pick(['Which item?', 'What kind of thing is it?', 'What is one of them?']),
      answer: `The item is ${withArticle(item)}.`,
    },
  ];
  return { passage, turns: random.shuffle(turns) };
}

/** Two to four people, each with a thing: who has what? */
function bindingTurns(random: Random): { passage: string; turns: Turn[] } {
  const count = random.int(2, 4);
  const who = names(random, count);
  const tints = random.sample(colours, count);
  const things = Array.from({ length: count }, () => anyThing(random));
  const spots = random.sample(places, count);
  const style = random.int(0, 2);
  const sentence = (i: number) =>
    [
      `${who[i]} has ${withArticle(tints[i]!)} ${things[i]}.`,
      `${who[i]} is at the ${spots[i]}.`,
      `The ${things[i]} of ${who[i]} is ${tints[i]}.`,
    ][style]!;
  const k = random.int(0, count - 1);
  const asks: Turn[][] = [
    [
      {
        question: `What does ${who[k]} have?`,
        answer: `${who[k]} has ${withArticle(tints[k]!)} ${things[k]}.`,
      },
      {
        question: `Who has something ${tints[k]}?`,
        answer: `${who[k]} has ${withArticle(tints[k]!)} ${things[k]}.`,
      },
    ],
    [
      { question: `Where is ${who[k]}?`, answer: `${who[k]} is at the ${spots[k]}.` },
      { question: `Who is at the ${spots[k]}?`, answer: `${who[k]} is at the ${spots[k]}.` },
    ],
    [
      {
        question: `What colour is the ${things[k]} of ${who[k]}?`,
        answer: `The ${things[k]} of ${who[k]} is ${tints[k]}.`,
      },
      { question: `Who has something ${tints[k]}?`, answer: `The ${things[k]} of ${who[k]} is ${tints[k]}.` },
    ],
  ];
  const passage = Array.from({ length: count }, (_, i) => sentence(i)).join(' ');
  return { passage, turns: [random.pick(asks[style]!)] };
}

/** A short report of a day. */
function reportTurns(random: Random): { passage: string; turns: Turn[] } {
  const name = anyName(random);
  const day = random.pick(days);
  const month = random.pick(months);
  const date = random.int(1, 28);
  const weather = random.pick(weathers);
  const place = random.pick(places);
  const food = random.sample(foods, 2);
  const pet = random.pick(animals);
  const petName = random.chance(0.6) ? random.pick(petNames) : inventedName(random);
  const passage = random
    .shuffle([
      `${day}, ${date} ${month}.`,
      `It was a ${weather} day.`,
      `${name} went to the ${place}.`,
      `There was ${listed(food)} to eat.`,
      `The ${pet} ${petName} came along.`,
    ])
    .join(' ');
  const turns = [
    { question: 'How was the weather?', answer: `It was a ${weather} day.` },
    { question: `Where did ${name} go?`, answer: `${name} went to the ${place}.` },
    { question: 'Who went out?', answer: `${name} went to the ${place}.` },
    { question: 'What was there to eat?', answer: `There was ${listed(food)} to eat.` },
    {
      question: random.pick(['What is the date?', 'Which date was it?']),
      answer: `It was ${day}, ${date} ${month}.`,
    },
    { question: 'Which animal came along?', answer: `The ${pet} ${petName} came along.` },
  ];
  return { passage, turns: random.shuffle(turns) };
}

/** Reading samples: passage and question in one message, sometimes followed by more questions. */
export function readingSample(random: Random): Sample {
  const { passage, turns } = random.weighted([
    [5, noteTurns],
    [3, bindingTurns],
    [2, reportTurns],
  ])(random);
  const asked = turns.slice(
    0,
    random.weighted([
      [3, 1],
      [2, 2],
      [1, 4],
    ]),
  );
  const [first, ...rest] = asked as [Turn, ...Turn[]];
  const question = random.pick([
    `${passage} ${first.question}`,
    `${passage}\n${first.question}`,
    `${first.question}\n${passage}`,
    `Read this: ${passage}\n${first.question}`,
  ]);
  return conversation([{ question, answer: first.answer }, ...rest]);
}

/**
 * A passage in which a few meaningless words come again and again: every repetition can be predicted by looking back,
 * which is the quickest way for a model to learn to look back at all.
 */
export function repetitionPassage(random: Random): string {
  const words = Array.from({ length: random.int(3, 10) }, () =>
    random.weighted([
      [4, () => inventedWord(random)],
      [2, () => inventedId(random)],
      [
        4,
        () =>
          random.pick([random.pick(goods), random.pick(colours), random.pick(people), random.pick(places)]),
      ],
    ])(),
  );
  const separator = random.pick([' ', ', ', '\n', ' - ']);
  const line = words.join(separator);
  return Array.from({ length: random.int(2, 4) }, () => line).join(
    random.pick(['\n', '. ', ' | ', separator]),
  );
}

/** Repeat a line, say its first or last word: copying of words that mean nothing. */
export function copyingSample(random: Random): Sample {
  const length = random.int(1, 6);
  const kinds: readonly (() => string)[] = [
    () => inventedWord(random),
    () => inventedId(random),
    () => random.pick([random.pick(goods), random.pick(colours), random.pick(people), random.pick(days)]),
  ];
  const kind = random.weighted([
    [3, 0],
    [2, 1],
    [2, 2],
    [3, 3],
  ]);
  const words = Array.from({ length }, () => (kind === 3 ? random.pick(kinds)() : kinds[kind]!()));
  const line = words.join(' ');
  return conversation([
    random.pick<() => Turn>([
      () => ({
        question: random.pick([`Repeat: ${line}`, `Say this again: ${line}`, `Copy this: ${line}`]),
        answer: line,
      }),
      () => ({ question: `Repeat: ${line}`, answer: line }),
      () => ({ question: `What is the first word? ${line}`, answer: words[0]! }),
      () => ({ question: `What is the last word? ${line}`, answer: words[length - 1]! }),
    ])(),
  ]);
}
