/** What a corpus generator returns: a plain passage, or a conversation whose assistant turns are to be learned. */

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export type Sample = { text: string } | { messages: Message[] };

export interface Turn {
  question: string;
  answer: string;
}

/** A conversation of question/answer turns, with an optional system prompt in front. */
export function conversation(turns: readonly Turn[], system?: string): Sample {
  const messages: Message[] = system === undefined ? [] : [{ role: 'system', content: system }];
  for (const { question, answer } of turns) {
    messages.push({ role: 'user', content: question }, { role: 'assistant', content: answer });
  }
  return { messages };
}
