/**
 * What the model must know by heart about the people and shops of the town. Every answer is one clean sentence.
 */
import type { Random } from './random.ts';
import type { Turn } from './sample.ts';
import { inventedName, listed, numberWords, plural, withArticle } from './words.ts';
import type { Person, Shop, World } from './world.ts';

type Phrasing = (random: Random) => string;
const one =
  (...options: string[]): Phrasing =>
  (random) =>
    random.pick(options);

/** Question phrasings and the one answer for each attribute of a person. */
function personFacts(p: Person): readonly { ask: Phrasing; tell: string }[] {
  return [
    {
      ask: one(`How old is ${p.name}?`, `What is the age of ${p.name}?`, `Tell me the age of ${p.name}.`),
      tell: `${p.name} is ${p.age} years old.`,
    },
    {
      ask: one(`What does ${p.name} do?`, `What is the job of ${p.name}?`, `What work does ${p.name} do?`),
      tell: `${p.name} is ${withArticle(p.job)}.`,
    },
    {
      ask: one(
        `What pet does ${p.name} have?`,
        `Which animal does ${p.name} keep?`,
        `Does ${p.name} have a pet?`,
      ),
      tell: `${p.name} has ${withArticle(p.pet)} called ${p.petName}.`,
    },
    {
      ask: one(`What is the name of the ${p.pet} of ${p.name}?`, `What is the pet of ${p.name} called?`),
      tell: `The ${p.pet} of ${p.name} is called ${p.petName}.`,
    },
    {
      ask: one(`Who is ${p.petName}?`, `Whose pet is ${p.petName}?`),
      tell: `${p.petName} is the ${p.pet} of ${p.name}.`,
    },
    {
      ask: one(`What colour is the house of ${p.name}?`, `Which colour has the house of ${p.name}?`),
      tell: `The house of ${p.name} is ${p.house}.`,
    },
    {
      ask: one(`Where does ${p.name} live?`, `Where is the house of ${p.name}?`),
      tell: `${p.name} lives near the ${p.home}.`,
    },
    {
      ask: one(`What does ${p.name} like to eat?`, `What is the favourite food of ${p.name}?`),
      tell: `${p.name} likes ${p.food}.`,
    },
  ];
}

function shopFacts(s: Shop): readonly { ask: Phrasing; tell: string }[] {
  const hour = numberWords[s.opens]!;
  const stock = listed(s.sells.map(plural));
  return [
    {
      ask: one(`What can I buy at the ${s.place}?`, `What does the shop at the ${s.place} sell?`),
      tell: `The shop at the ${s.place} sells ${stock}.`,
    },
    {
      ask: one(`What does ${s.owner} sell?`, `What can I buy from ${s.owner}?`),
      tell: `${s.owner} sells ${stock} at the ${s.place}.`,
    },
    {
      ask: one(`Who has the shop at the ${s.place}?`, `Whose shop is at the ${s.place}?`),
      tell: `The shop at the ${s.place} belongs to ${s.owner}.`,
    },
    {
      ask: one(`When does the shop at the ${s.place} open?`, `When does ${s.owner} open the shop?`),
      tell: `The shop at the ${s.place} opens at ${hour}.`,
    },
    {
      ask: one(
        `When is the shop at the ${s.place} closed?`,
        `On which day is the shop of ${s.owner} closed?`,
      ),
      tell: `The shop at the ${s.place} is closed on ${s.closedOn}.`,
    },
    ...s.sells.map((item) => ({
      ask: one(
        `Where can I buy ${withArticle(item)}?`,
        `Who sells ${plural(item)}?`,
        `I need ${withArticle(item)}. Where do I go?`,
      ),
      tell: `You can buy ${plural(item)} from ${s.owner} at the ${s.place}.`,
    })),
  ];
}

/** One question about a person or a shop of the town. */
export function townTurn(world: World, random: Random): Turn {
  const facts = random.chance(0.65)
    ? personFacts(random.pick(world.persons))
    : shopFacts(random.pick(world.shops));
  const fact = random.pick(facts);
  return { question: fact.ask(random), answer: fact.tell };
}

/** A passage that states every fact of one person or one shop. */
export function townPassage(world: World, random: Random): string {
  const facts = random.chance(0.65)
    ? personFacts(random.pick(world.persons))
    : shopFacts(random.pick(world.shops));
  return random
    .shuffle(facts)
    .map((fact) => fact.tell)
    .join(' ');
}

/** The model says when it does not know somebody. */
export function unknownTurn(random: Random): Turn {
  const name = inventedName(random);
  const question = random.pick([
    `How old is ${name}?`,
    `Where does ${name} live?`,
    `What does ${name} do?`,
    `Who is ${name}?`,
  ]);
  return { question, answer: `I do not know anybody called ${name}.` };
}
