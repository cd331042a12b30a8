/**
 * The shipped example task: a customer's message to the shop in, one line of JSON out. Combinations of the held-out
 * and validation rows never occur among the training rows. Writes OpenAI chat rows.
 */
import { Random } from './random.ts';
import type { Message } from './sample.ts';
import { colours, days, goods, numberWords, people, plural } from './words.ts';

const orderSystemPrompt = 'You take orders for the shop.';

export interface Order {
  item: string;
  colour: string;
  count: number;
  day: string;
  name: string;
}

type Wording = (o: { things: string; day: string; name: string }) => string;

const wordings: readonly Wording[] = [
  (o) => `Hello, could you put ${o.things} aside for me? I will come by on ${o.day}. ${o.name}`,
  (o) => `Hi, this is ${o.name}. I would like ${o.things}, please. I can fetch them on ${o.day}.`,
  (o) => `Good morning! Do you still have ${o.things}? I need them for ${o.day}. Thanks, ${o.name}`,
  (o) => `${o.name} here. Please keep ${o.things} until ${o.day}.`,
  (o) => `I would like to order ${o.things} for ${o.day}. My name is ${o.name}.`,
  (o) => `For ${o.day} I need ${o.things}. Best wishes, ${o.name}`,
  (o) => `Dear shop, on ${o.day} I want to buy ${o.things}. Yours, ${o.name}`,
  (o) => `Please write down ${o.things} for ${o.name}. I come on ${o.day}.`,
  (o) => `Can I have ${o.things} by ${o.day}? It is for ${o.name}.`,
  (o) => `My name is ${o.name} and on ${o.day} I will come for ${o.things}.`,
  (o) => `A good day to you! ${o.name} wants ${o.things} on ${o.day}, please.`,
  (o) => `Hello! ${o.things}, please, for ${o.day}. Thank you, ${o.name}`,
];

function key(order: Order): string {
  return `${order.colour} ${order.item} ${order.day}`;
}

function draw(random: Random): Order {
  return {
    item: random.pick(goods),
    colour: random.pick(colours),
    count: random.int(1, 12),
    day: random.pick(days),
    name: random.pick(people),
  };
}

function row(order: Order, random: Random): { messages: Message[] } {
  const number = random.chance(0.7) ? numberWords[order.count]! : String(order.count);
  const things = `${number} ${order.colour} ${order.count === 1 ? order.item : plural(order.item)}`;
  const message = random.pick(wordings)({ things, day: order.day, name: order.name });
  return {
    messages: [
      { role: 'system', content: orderSystemPrompt },
      { role: 'user', content: message },
      { role: 'assistant', content: JSON.stringify(order) },
    ],
  };
}

/** Rows of the three files. No colour + item + day of one file occurs in another. */
export function orderRows(sizes: { train: number; valid: number; heldout: number }, seed = 11) {
  const random = new Random(seed);
  const seen = new Set<string>();
  const rows = (count: number) => {
    const list: { messages: Message[] }[] = [];
    while (list.length < count) {
      const order = draw(random);
      if (seen.has(key(order))) continue;
      seen.add(key(order));
      list.push(row(order, random));
    }
    return list;
  };
  return { train: rows(sizes.train), valid: rows(sizes.valid), heldout: rows(sizes.heldout) };
}

/** Preference pairs of rows: the line of JSON is preferred to a sentence that says the same. */
export function orderPairs(rows: readonly { messages: Message[] }[]) {
  return rows.map(({ messages }) => {
    const answer = messages.at(-1)!;
    const { name, count, colour, item, day } = JSON.parse(answer.content) as Order;
    const sentence = `${name} wants ${count} ${colour} ${count === 1 ? item : plural(item)} on ${day}.`;
    return {
      input: { messages: messages.slice(0, -1) },
      preferred_output: [answer],
      non_preferred_output: [{ role: 'assistant', content: sentence }],
    };
  });
}
