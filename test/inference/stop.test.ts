/** Stop strings across token boundaries, held-back text, and UTF-8 that arrives in pieces. */
import { describe, expect, it } from 'vitest';
import { StopText, type TokenDecoder } from '../../workers/inference/stop.ts';

/** A "token" is an index into `pieces`; bytes decode as they become complete UTF-8. */
function decoderOf(pieces: (string | number[])[]): TokenDecoder {
  const decoder = new TextDecoder();
  return {
    push: (token) =>
      decoder.decode(
        typeof pieces[token] === 'string' ? Buffer.from(pieces[token]) : Uint8Array.from(pieces[token]!),
        { stream: true },
      ),
    flush: () => decoder.decode(),
  };
}

/** Feeds every piece; returns what each call showed, the rest last. */
function feed(pieces: (string | number[])[], stops: string[]) {
  const text = new StopText<number>(decoderOf(pieces), stops);
  const shown: { text: string; records: number[]; stopped: boolean }[] = [];
  for (let token = 0; token < pieces.length; token++) {
    shown.push(text.push(token, token));
    if (shown.at(-1)!.stopped) return shown;
  }
  shown.push(text.finish());
  return shown;
}
const texts = (shown: { text: string }[]): string[] => shown.map((part) => part.text);

describe('stop text', () => {
  it('shows text at once when no stop string can begin in it', () => {
    expect(texts(feed(['Hel', 'lo', ' you'], ['END']))).toEqual(['Hel', 'lo', ' you', '']);
  });

  it('stops inside a token and across tokens, showing only what comes before', () => {
    expect(texts(feed(['one END two'], ['END']))).toEqual(['one ']);
    expect(texts(feed(['one E', 'N', 'D two'], ['END']))).toEqual(['one ', '', '']);
  });

  it('gives held-back text out when it turns out to be harmless, or at the end', () => {
    expect(texts(feed(['a E', 'N', 'X'], ['END']))).toEqual(['a ', '', 'ENX', '']);
    expect(texts(feed(['a EN'], ['END']))).toEqual(['a ', 'EN']);
  });

  it('holds back only what can still match after a partial failure', () => {
    expect(texts(feed(['aa', 'a', 'b', 'c'], ['aab']))).toEqual(['', 'a', '']);
    expect(texts(feed(['\n', '\n', 'x'], ['\n\n\n']))).toEqual(['', '', '\n\nx', '']);
  });

  it('takes the earliest of several stop strings', () => {
    expect(texts(feed(['x one two'], ['two', 'one']))).toEqual(['x ']);
    const both = feed(['ab', 'c'], ['abc', 'b']);
    expect(texts(both)).toEqual(['a']);
    expect(both.at(-1)!.stopped).toBe(true);
  });

  it('never shows half a character', () => {
    const [a, b, c, d] = Buffer.from('😀');
    expect(texts(feed([[a!], [b!, c!], [d!, 0x21]], []))).toEqual(['', '', '😀!', '']);
    expect(texts(feed([[a!, b!]], []))).toEqual(['', '\ufffd']);
    expect(texts(feed([[a!, b!], [c!, d!], 'x'], ['😀']))).toEqual(['', '']);
  });

  it('sends each token record exactly once, with the text that shows its beginning', () => {
    const shown = feed(['a E', 'N', 'X', 'y'], ['END']);
    expect(shown.map((part) => part.records)).toEqual([[0], [], [1, 2], [3], []]);
  });

  it('drops the records of tokens that lie wholly inside the stop string', () => {
    const shown = feed(['a E', 'N', 'D'], ['END']);
    expect(shown.map((part) => part.records)).toEqual([[0], [], []]);
    expect(feed(['ab', 'cd'], ['bc']).map((part) => part.records)).toEqual([[0], []]);
  });

  it('agrees with a search in the whole text, for every cut of it into tokens', () => {
    const whole = 'abaabab\nabc';
    for (let cuts = 0; cuts < 2 ** (whole.length - 1); cuts += 7) {
      const pieces: string[] = [];
      let piece = '';
      for (let i = 0; i < whole.length; i++) {
        piece += whole[i];
        if (((cuts >> i) & 1) === 0 && i < whole.length - 1) continue;
        pieces.push(piece);
        piece = '';
      }
      for (const stops of [['bab'], ['\nab', 'abab'], ['zz'], ['c']]) {
        const ends = stops.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0);
        const expected = ends.length > 0 ? whole.slice(0, Math.min(...ends)) : whole;
        const shown = feed(pieces, stops);
        // A stop string that is complete earlier wins even if another one began before it.
        if (stops.length === 1) expect(texts(shown).join('')).toBe(expected);
        expect(shown.at(-1)!.stopped).toBe(ends.length > 0);
      }
    }
  });
});
