/**
 * How text metrics cut text into tokens: mteval's rules (as BLEU, GLEU and METEOR are usually reported) and ROUGE's.
 * Both take every Han or kana character as a token of its own, since those scripts put no spaces between words.
 */

const CHARACTER_TOKEN = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u3000-\u303f\uff00-\uffef]/gu;
const ENTITIES: Record<string, string> = { '&quot;': '"', '&amp;': '&', '&lt;': '<', '&gt;': '>' };

/**
 * Tokens by the rules of mteval-v13a: symbols stand alone, period and comma stand alone unless they sit between
 * digits, a dash does after a digit; case stays.
 */
export function wordTokens(text: string): string[] {
  const plain = text
    .replaceAll('<skipped>', '')
    .replaceAll('-\n', '')
    .replaceAll('\n', ' ')
    .replace(/&(quot|amp|lt|gt);/g, (entity) => ENTITIES[entity] ?? entity)
    .replace(CHARACTER_TOKEN, ' $& ');
  return ` ${plain} `
    .replace(/[ -&(-+/:-@[-`{-~]/gu, ' $& ')
    .replace(/([^0-9])([.,])/gu, '$1 $2 ')
    .replace(/([.,])([^0-9])/gu, ' $1 $2')
    .replace(/([0-9])(-)/gu, '$1 $2 ')
    .split(/\s+/u)
    .filter((token) => token !== '');
}

const ROUGE_TOKEN =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|(?:(?![\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}])[\p{L}\p{M}\p{N}])+/gu;

/** Lower-cased runs of letters and digits; on ASCII text these are the tokens of the rouge-score package. */
export function rougeTokens(text: string): string[] {
  return text.toLowerCase().match(ROUGE_TOKEN) ?? [];
}
