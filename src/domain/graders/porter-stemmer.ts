/**
 * Porter's suffix stripping (Program 14(3), 1980) with NLTK's additions, which METEOR is computed with: irregular
 * words, "ie" kept in short words, y → i only after a consonant, -bli, -fulli and -logi.
 */

const IRREGULAR: Record<string, string> = Object.assign(Object.create(null), {
  skies: 'sky',
  sky: 'sky',
  dying: 'die',
  lying: 'lie',
  tying: 'tie',
  news: 'news',
  innings: 'inning',
  inning: 'inning',
  outings: 'outing',
  outing: 'outing',
  cannings: 'canning',
  canning: 'canning',
  howe: 'howe',
  proceed: 'proceed',
  exceed: 'exceed',
  succeed: 'succeed',
});

/** [suffix, replacement]: the first suffix that fits decides, whether its condition holds or not. */
type Rules = readonly (readonly [string, string])[];

const STEP_2: Rules = [
  ['ational', 'ate'],
  ['tional', 'tion'],
  ['enci', 'ence'],
  ['anci', 'ance'],
  ['izer', 'ize'],
  ['bli', 'ble'],
  ['alli', 'al'],
  ['entli', 'ent'],
  ['eli', 'e'],
  ['ousli', 'ous'],
  ['ization', 'ize'],
  ['ation', 'ate'],
  ['ator', 'ate'],
  ['alism', 'al'],
  ['iveness', 'ive'],
  ['fulness', 'ful'],
  ['ousness', 'ous'],
  ['aliti', 'al'],
  ['iviti', 'ive'],
  ['biliti', 'ble'],
  ['fulli', 'ful'],
  ['logi', 'log'],
];
const STEP_3: Rules = [
  ['icate', 'ic'],
  ['ative', ''],
  ['alize', 'al'],
  ['iciti', 'ic'],
  ['ical', 'ic'],
  ['ful', ''],
  ['ness', ''],
];
const STEP_4 = 'al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize'.split(' ');

/** The stem of a lower-case word. */
export function stem(word: string): string {
  const irregular = IRREGULAR[word];
  if (irregular !== undefined) return irregular;
  if (word.length <= 2) return word;
  return step5(step4(step3(step2(step1c(step1b(step1a(word)))))));
}

/** True at every consonant: all letters but a, e, i, o, u, and y after a consonant. */
function consonants(word: string): boolean[] {
  const flags: boolean[] = [];
  for (let i = 0; i < word.length; i++) {
    const letter = word[i]!;
    if (letter === 'y') flags.push(i === 0 || !flags[i - 1]);
    else flags.push(!'aeiou'.includes(letter));
  }
  return flags;
}

/** Porter's m: how often a vowel is followed by a consonant. */
function measure(stemmed: string): number {
  const flags = consonants(stemmed);
  let count = 0;
  for (let i = 1; i < flags.length; i++) if (flags[i] && !flags[i - 1]) count += 1;
  return count;
}

const hasVowel = (text: string) => consonants(text).includes(false);

function endsDouble(word: string): boolean {
  return word.length >= 2 && word.at(-1) === word.at(-2) && consonants(word).at(-1) === true;
}

/** Porter's *o: consonant, vowel, consonant other than w, x, y; NLTK also takes a two-letter vowel and consonant. */
function endsShort(word: string): boolean {
  const flags = consonants(word);
  if (word.length === 2) return !flags[0] && flags[1]!;
  const [a, b, c] = flags.slice(-3);
  return word.length >= 3 && a! && !b && c! && !'wxy'.includes(word.at(-1)!);
}

function step1a(word: string): string {
  if (word.endsWith('ies')) return word.slice(0, word.length === 4 ? -1 : -2);
  if (word.endsWith('sses')) return word.slice(0, -2);
  if (word.endsWith('ss')) return word;
  return word.endsWith('s') ? word.slice(0, -1) : word;
}

function step1b(word: string): string {
  if (word.endsWith('ied')) return word.slice(0, word.length === 4 ? -1 : -2);
  if (word.endsWith('eed')) return measure(word.slice(0, -3)) > 0 ? word.slice(0, -1) : word;
  const suffix = ['ed', 'ing'].find((end) => word.endsWith(end) && hasVowel(word.slice(0, -end.length)));
  if (!suffix) return word;
  const rest = word.slice(0, -suffix.length);
  if (/(at|bl|iz)$/.test(rest)) return `${rest}e`;
  if (endsDouble(rest)) return /[lsz]$/.test(rest) ? rest : rest.slice(0, -1);
  return measure(rest) === 1 && endsShort(rest) ? `${rest}e` : rest;
}

function step1c(word: string): string {
  const rest = word.slice(0, -1);
  return word.endsWith('y') && rest.length > 1 && consonants(rest).at(-1) ? `${rest}i` : word;
}

function step2(word: string): string {
  if (word.endsWith('alli') && measure(word.slice(0, -4)) > 0) return step2(word.slice(0, -2));
  const rule = STEP_2.find(([suffix]) => word.endsWith(suffix));
  if (!rule) return word;
  const [suffix, replacement] = rule;
  // For -logi the measure counts the l too, so that "geologi" becomes "geolog".
  const measured = suffix === 'logi' ? word.slice(0, -3) : word.slice(0, -suffix.length);
  return measure(measured) > 0 ? word.slice(0, -suffix.length) + replacement : word;
}

function step3(word: string): string {
  const rule = STEP_3.find(([suffix]) => word.endsWith(suffix));
  if (!rule) return word;
  const rest = word.slice(0, -rule[0].length);
  return measure(rest) > 0 ? rest + rule[1] : word;
}

function step4(word: string): string {
  const suffix = STEP_4.find((end) => word.endsWith(end));
  if (!suffix) return word;
  const rest = word.slice(0, -suffix.length);
  const fits = suffix !== 'ion' || /[st]$/.test(rest);
  return fits && measure(rest) > 1 ? rest : word;
}

function step5(word: string): string {
  let result = word;
  if (word.endsWith('e')) {
    const rest = word.slice(0, -1);
    const m = measure(rest);
    if (m > 1 || (m === 1 && !endsShort(rest))) result = rest;
  }
  return result.endsWith('ll') && measure(result.slice(0, -1)) > 1 ? result.slice(0, -1) : result;
}
