/** Asks base and tuned model the held-out questions, marks the answers, and prints what a reader wants to see and copy. */
import type OpenAI from 'openai';
import { ANSWER_TOKENS_MAX, type Exercise, isRight } from './quickstart-task.ts';

/** Requests under way at once; the service batches them. */
const TOGETHER = 16;
const SHOWN = 4;

/** The model's answer to each exercise, at temperature 0. */
export async function answerAll(client: OpenAI, model: string, exercises: Exercise[]): Promise<string[]> {
  const answers: string[] = [];
  let next = 0;
  const work = async () => {
    for (let i = next++; i < exercises.length; i = next++) {
      const completion = await client.chat.completions.create({
        model,
        messages: exercises[i]!.messages,
        temperature: 0,
        max_tokens: ANSWER_TOKENS_MAX,
      });
      answers[i] = completion.choices[0]?.message.content ?? '';
    }
  };
  await Promise.all(Array.from({ length: TOGETHER }, work));
  return answers;
}

/** Share of right answers, 0…1. */
export function exactMatch(answers: string[], exercises: Exercise[]): number {
  const right = exercises.filter((exercise, i) => isRight(answers[i] ?? '', exercise)).length;
  return right / exercises.length;
}

/** A few exercises with both answers below each other. */
export function sideBySide(exercises: Exercise[], base: string[], tuned: string[]): string {
  return exercises
    .slice(0, SHOWN)
    .map((exercise, i) => {
      const mark = (answer: string) => (isRight(answer, exercise) ? '✓' : '✗');
      const question = String(exercise.messages.at(-1)?.content ?? '');
      return [
        `  user   ${question}`,
        `  base   ${mark(base[i] ?? '')} ${oneLine(base[i] ?? '')}`,
        `  tuned  ${mark(tuned[i] ?? '')} ${oneLine(tuned[i] ?? '')}`,
      ].join('\n');
    })
    .join('\n\n');
}

const oneLine = (text: string) => JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').slice(0, 140);

/** Ready-to-paste calls of the tuned model. */
export function snippets(url: string, key: string, model: string, { messages }: Exercise): string {
  const body = JSON.stringify({ model, messages, temperature: 0 });
  return `curl ${url}/v1/chat/completions \\
  -H 'Authorization: Bearer ${key}' -H 'Content-Type: application/json' \\
  -d '${body.replaceAll("'", "'\\''")}'

from openai import OpenAI
client = OpenAI(base_url="${url}/v1", api_key="${key}")
answer = client.chat.completions.create(
    model="${model}",
    messages=${JSON.stringify(messages)},
    temperature=0,
)
print(answer.choices[0].message.content)`;
}
