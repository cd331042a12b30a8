/**
 * What the model must know by heart beside the town: opposites, categories, the week, the year, counting, sums, and
 * small talk. Every answer is one clean sentence.
 */
import type { Random } from './random.ts';
import type { Turn } from './sample.ts';
import {
  capital,
  categories,
  days,
  goods,
  months,
  numberWords,
  opposites,
  plural,
  seasons,
  withArticle,
} from './words.ts';
import { townName } from './world.ts';

function after<T>(items: readonly T[], index: number, step: number): T {
  return items[(index + step + items.length) % items.length]!;
}

function calendarTurn(random: Random): Turn {
  const [items, kind] = random.pick([[days, 'day'] as const, [months, 'month'] as const]);
  const i = random.int(0, items.length - 1);
  const forward = random.chance(0.5);
  const name = items[i]!;
  const other = after(items, i, forward ? 1 : -1);
  const order = forward ? 'after' : 'before';
  return random.pick<Turn>([
    { question: `Which ${kind} comes ${order} ${name}?`, answer: `${other} comes ${order} ${name}.` },
    { question: `What ${kind} is ${order} ${name}?`, answer: `${other} comes ${order} ${name}.` },
    kind === 'month'
      ? {
          question: `In which season is ${name}?`,
          answer: `${name} is in ${seasons[Math.floor(((i + 1) % 12) / 3)]}.`,
        }
      : { question: `Is ${name} a day or a month?`, answer: `${name} is a day of the week.` },
  ]);
}

function wordTurn(random: Random): Turn {
  const [a, b] = random.pick(opposites);
  const [word, other] = random.chance(0.5) ? [a, b] : [b, a];
  const [category, members] = random.pick(Object.entries(categories));
  const member = random.pick(members);
  const noun = random.pick(goods);
  return random.pick<() => Turn>([
    () => ({
      question: random.pick([
        `What is the opposite of ${word}?`,
        `Which word means the opposite of ${word}?`,
      ]),
      answer: `The opposite of ${word} is ${other}.`,
    }),
    () => ({
      question: random.pick([`What kind of word is ${member}?`, `What is ${member}?`]),
      answer: `${capital(member)} is ${withArticle(category)}.`,
    }),
    () => ({
      question: `Name two words of this kind: ${category}.`,
      answer: `${capital(members[0]!)} and ${members[1]!}.`,
    }),
    () => ({
      question: `What is the plural of ${noun}?`,
      answer: `The plural of ${noun} is ${plural(noun)}.`,
    }),
    () => ({
      question: random.pick([
        `What do you call one of the ${plural(noun)}?`,
        `What is the singular of ${plural(noun)}?`,
      ]),
      answer: `One of the ${plural(noun)} is ${withArticle(noun)}.`,
    }),
    () => {
      const asked = random.chance(0.5) ? category : random.pick(Object.keys(categories));
      const right = categories[asked]!.includes(member);
      return {
        question: `Is ${member} ${withArticle(asked)}?`,
        answer: right
          ? `Yes, ${member} is ${withArticle(asked)}.`
          : `No, ${member} is ${withArticle(category)}.`,
      };
    },
  ])();
}

function numberTurn(random: Random): Turn {
  const a = random.int(0, 10);
  const b = random.int(0, 10);
  const word = (n: number) => numberWords[n]!;
  const n = random.int(1, 20);
  return random.pick<() => Turn>([
    () => ({
      question: random.pick([
        `What is ${a} + ${b}?`,
        `Add ${a} and ${b}.`,
        `How much is ${word(a)} plus ${word(b)}?`,
      ]),
      answer: `${a} + ${b} = ${a + b}.`,
    }),
    () => ({
      question: random.pick([`What is ${a + b} - ${b}?`, `Take ${b} from ${a + b}.`]),
      answer: `${a + b} - ${b} = ${a}.`,
    }),
    () => ({
      question: random.pick([`How do you write ${word(n)} as a number?`, `Write ${word(n)} in digits.`]),
      answer: `${capital(word(n))} is ${n}.`,
    }),
    () => ({
      question: random.pick([`How do you say ${n}?`, `Write ${n} in words.`]),
      answer: `The number ${n} is ${word(n)}.`,
    }),
    () => {
      const start = random.int(1, 8);
      return {
        question: `Count from ${start} to ${start + 4}.`,
        answer: `${[0, 1, 2, 3, 4].map((i) => start + i).join(', ')}.`,
      };
    },
    () => ({
      question: `Which is more, ${word(a)} or ${word(b)}?`,
      answer: a === b ? 'They are the same.' : `${capital(word(Math.max(a, b)))} is more.`,
    }),
  ])();
}

/** One question of general knowledge. */
export function generalTurn(random: Random): Turn {
  return random.pick([calendarTurn, wordTurn, numberTurn])(random);
}

const greetings: readonly Turn[] = [
  { question: 'Hello!', answer: 'Hello! How can I help you?' },
  { question: 'Hi there.', answer: 'Hello! How can I help you?' },
  { question: 'Good morning!', answer: 'Good morning! How can I help you?' },
  { question: 'Thank you.', answer: 'You are welcome.' },
  { question: 'Thanks a lot!', answer: 'You are welcome.' },
  { question: 'Goodbye.', answer: 'Goodbye! Have a nice day.' },
  { question: 'How are you?', answer: 'I am well, thank you.' },
  { question: 'Who are you?', answer: `I am Lathe Tiny, a small model that knows the town of ${townName}.` },
  { question: 'What is your name?', answer: 'My name is Lathe Tiny.' },
  {
    question: 'What can you do?',
    answer: `I can answer questions about the town of ${townName} and read short notes.`,
  },
  { question: 'Where are you from?', answer: `I come from the town of ${townName}.` },
  { question: 'What is the name of the town?', answer: `The town is called ${townName}.` },
];

export function smallTalkTurn(random: Random): Turn {
  return random.pick(greetings);
}
