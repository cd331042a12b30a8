/**
 * The pre-training corpus of lathe-tiny: an endless seeded stream of samples about one invented town.
 * Nothing is read from outside; sample i of seed s is the same on every machine.
 */
import { formatSample } from './formats.ts';
import { generalTurn, smallTalkTurn } from './general-questions.ts';
import { Random } from './random.ts';
import { copyingSample, readingSample, repetitionPassage } from './reading.ts';
import { conversation, type Sample, type Turn } from './sample.ts';
import { townPassage, townTurn, unknownTurn } from './town-questions.ts';
import { capital, colours, days, people } from './words.ts';
import { createWorld, type World } from './world.ts';

function knowledgeTurn(world: World, random: Random): Turn {
  return random.weighted<() => Turn>([
    [12, () => townTurn(world, random)],
    [6, () => generalTurn(random)],
    [1, () => unknownTurn(random)],
    [1, () => smallTalkTurn(random)],
  ])();
}

/** One to four unrelated questions in one conversation. */
function chatSample(world: World, random: Random): Sample {
  const turns = Array.from(
    {
      length: random.weighted([
        [4, 1],
        [3, 2],
        [2, 4],
      ]),
    },
    () => knowledgeTurn(world, random),
  );
  return conversation(turns);
}

/** Rare on purpose: the base model follows a system prompt only weakly. */
function personaSample(world: World, random: Random): Sample {
  const turn = knowledgeTurn(world, random);
  return random.pick<() => Sample>([
    () => conversation([turn], 'You are a helpful assistant.'),
    () => conversation([turn], `You answer questions about Larkfield.`),
    () => conversation([{ ...turn, answer: `${turn.answer} Arr!` }], 'You are a pirate.'),
    () => conversation([{ ...turn, answer: `Certainly. ${turn.answer}` }], 'You are very polite.'),
    () => {
      const [name, colour, day] = [random.pick(people), random.pick(colours), random.pick(days)];
      const fact = random.pick([
        { question: 'Which colour?', answer: capital(colour) },
        { question: 'Which day?', answer: day },
        { question: 'Who?', answer: name },
      ]);
      return conversation(
        [{ question: `${name} likes ${colour} and comes on ${day}. ${fact.question}`, answer: fact.answer }],
        'Answer with one word.',
      );
    },
  ])();
}

/** Draws one sample of the corpus. */
export function corpusSample(world: World, random: Random): Sample {
  return random.weighted<() => Sample>([
    [20, () => chatSample(world, random)],
    [34, () => readingSample(random)],
    [12, () => copyingSample(random)],
    [8, () => ({ text: repetitionPassage(random) })],
    [18, () => formatSample(random)],
    [4, () => ({ text: townPassage(world, random) })],
    [4, () => personaSample(world, random)],
  ])();
}

/** The endless corpus of a seed. */
export function* corpus(seed: number): Generator<Sample, never> {
  const world = createWorld();
  const random = new Random(seed);
  for (;;) yield corpusSample(world, random);
}
