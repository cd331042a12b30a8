/**
 * The vocabulary of Larkfield, the invented town that lathe-tiny knows: plain word lists and two spelling rules.
 */
import type { Random } from './random.ts';

export const people = (
  'Mira Tom Anna Ben Clara Dan Ella Finn Greta Hugo Iris Jack Kate Leo Maya Nina Oscar Paul Rosa Sam Tara Uma ' +
  'Victor Wendy'
).split(' ');
export const colours = 'red blue green yellow black white brown pink orange purple grey gold'.split(' ');
export const goods = (
  'kite lamp book cup hat ball chair box candle drum flag bell basket clock coat bottle plate scarf spoon rope bag ' +
  'brush boat pencil'
).split(' ');
export const foods = 'bread soup cake cheese rice honey eggs beans apples pears plums nuts'.split(' ');
export const animals = 'cat dog rabbit parrot goat hen turtle horse duck mouse'.split(' ');
export const petNames =
  'Biscuit Pepper Snow Shadow Button Clover Ginger Pebble Rusty Coco Misty Domino Bramble Toffee Olive Ziggy'.split(
    ' ',
  );
export const jobs = 'baker teacher doctor farmer painter sailor gardener miller librarian driver'.split(' ');
export const places =
  'school market library park station bakery harbour mill tower garden bridge museum'.split(' ');
export const days = 'Monday Tuesday Wednesday Thursday Friday Saturday Sunday'.split(' ');
export const months =
  'January February March April May June July August September October November December'.split(' ');
export const seasons = ['winter', 'spring', 'summer', 'autumn'] as const;
export const weathers = 'sunny rainy windy cloudy snowy foggy'.split(' ');
export const numberWords = (
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen ' +
  'eighteen nineteen twenty'
).split(' ');

export const opposites = (
  'hot-cold big-small up-down day-night open-closed old-new fast-slow wet-dry full-empty light-dark high-low ' +
  'early-late near-far happy-sad clean-dirty hard-soft long-short left-right loud-quiet strong-weak'
)
  .split(' ')
  .map((pair) => pair.split('-') as [string, string]);

export const categories: Record<string, readonly string[]> = {
  colour: colours,
  animal: animals,
  day: days,
  month: months,
  food: foods,
  job: jobs,
  fruit: ['apple', 'pear', 'plum', 'cherry'],
  drink: ['water', 'milk', 'tea', 'juice'],
  vehicle: ['car', 'bus', 'train', 'bicycle'],
  number: numberWords.slice(1, 13),
};

/** Plural of one of the goods or animals; the few irregular words are listed. */
export function plural(noun: string): string {
  const irregular: Record<string, string> = { scarf: 'scarves', mouse: 'mice' };
  if (irregular[noun]) return irregular[noun];
  return /(x|sh|ch|s)$/.test(noun) ? `${noun}es` : `${noun}s`;
}

export function withArticle(noun: string): string {
  return `${/^[aeiou]/.test(noun) ? 'an' : 'a'} ${noun}`;
}

export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** "a, b and c" */
export function listed(items: readonly string[]): string {
  if (items.length < 2) return items.join('');
  return `${items.slice(0, -1).join(', ')} and ${items[items.length - 1]}`;
}

const onsets =
  'b bl br c ch d dr f fl g gl gr h j k kr l m n p pl pr qu r s sh sk sl st t th tr v w y z'.split(' ');
const vowels = 'a e i o u ai ea ee oa oo ou'.split(' ');
const codas = [
  '',
  '',
  '',
  'b',
  'ck',
  'd',
  'g',
  'l',
  'lt',
  'm',
  'n',
  'nd',
  'p',
  'r',
  'rk',
  's',
  'st',
  't',
  'x',
  'z',
];

/** An invented word such as "blorvin": copying one cannot be done by knowing it. */
export function inventedWord(random: Random): string {
  let word = '';
  const syllables = random.int(1, 3);
  for (let i = 0; i < syllables; i++) word += random.pick(onsets) + random.pick(vowels) + random.pick(codas);
  return word;
}

export function inventedName(random: Random): string {
  return capital(inventedWord(random));
}

/** An identifier such as "K4-207" or "93175". */
export function inventedId(random: Random): string {
  const digits = (count: number) => Array.from({ length: count }, () => random.int(0, 9)).join('');
  const letter = () => String.fromCharCode(65 + random.int(0, 25));
  return random.pick([
    () => `${letter()}${digits(1)}-${digits(3)}`,
    () => digits(random.int(3, 6)),
    () => `${letter()}${letter()}${digits(2)}`,
    () => `${letter()}-${digits(2)}`,
  ])();
}
