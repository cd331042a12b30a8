// Data files of trainer tests.

/** Lines of a chat file; line i asks for i. */
export function chatLines(count: number, from = 0): string {
  return Array.from({ length: count }, (_, i) => {
    const n = from + i;
    const messages = [
      { role: 'user', content: `Count to ${n % 7}` },
      {
        role: 'assistant',
        content: `${Array.from({ length: (n % 7) + 1 }, (_, k) => k).join(' ')} done ${n}`,
      },
    ];
    return `${JSON.stringify({ messages })}\n`;
  }).join('');
}

/** Lines of a preference file; counting up is preferred to counting down. */
export function preferenceLines(count: number, from = 0): string {
  return Array.from({ length: count }, (_, i) => {
    const n = from + i;
    const numbers = Array.from({ length: (n % 5) + 2 }, (_, k) => k);
    const answer = (content: string) => [{ role: 'assistant', content }];
    return `${JSON.stringify({
      input: { messages: [{ role: 'user', content: `Count to ${n % 5}, ${n}` }] },
      preferred_output: answer(numbers.join(' ')),
      non_preferred_output: answer(`${numbers.toReversed().join(' ')} done`),
    })}\n`;
  }).join('');
}
