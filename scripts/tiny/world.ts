/**
 * The fixed facts of Larkfield, drawn once from a seed: who lives there, what they own, which shop sells what.
 * The corpus states them over and over; they are what the base model knows by heart.
 */
import { Random } from './random.ts';
import { animals, colours, days, foods, goods, jobs, people, petNames, places } from './words.ts';

export interface Person {
  name: string;
  age: number;
  job: string;
  pet: string;
  petName: string;
  house: string;
  home: string;
  food: string;
}

export interface Shop {
  owner: string;
  sells: readonly [string, string, string];
  place: string;
  opens: number;
  closedOn: string;
}

export const townName = 'Larkfield';

export interface World {
  persons: readonly Person[];
  shops: readonly Shop[];
}

/** Sixteen of the names get a fixed life; the other names appear only in passages that state what is asked. */
export function createWorld(seed = 7): World {
  const random = new Random(seed);
  const names = people.slice(0, 16);
  const pets = random.shuffle(petNames);
  const persons = names.map((name, i) => ({
    name,
    age: random.int(20, 60),
    job: random.pick(jobs),
    pet: random.pick(animals),
    petName: pets[i]!,
    house: random.pick(colours),
    home: random.pick(places),
    food: random.pick(foods),
  }));
  const stock = random.shuffle(goods);
  const shopPlaces = random.sample(places, 8);
  const shops = shopPlaces.map((place, i) => ({
    owner: names[i * 2]!,
    sells: [stock[i * 3]!, stock[i * 3 + 1]!, stock[i * 3 + 2]!] as const,
    place,
    opens: random.int(7, 10),
    closedOn: random.pick(days),
  }));
  return { persons, shops };
}
