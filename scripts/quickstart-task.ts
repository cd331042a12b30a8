/**
 * What the quickstart teaches, and how: the example's files, the numbers it asks for, and how an answer is marked.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type OpenAI from 'openai';
import { PROJECT_ROOT } from '../src/config.ts';

type Message = OpenAI.ChatCompletionMessageParam;

const folder = path.join(PROJECT_ROOT, 'examples', 'data');

export const TRAIN_FILE = path.join(folder, 'train.jsonl');
export const VALID_FILE = path.join(folder, 'valid.jsonl');

export const BASE_MODEL = 'lathe-tiny';
export const SUFFIX = 'orders';
export const SEED = 7;
/** Left to the server's rule: what a user gets who asks for nothing. */
export const HYPERPARAMETERS = {
  n_epochs: 'auto',
  batch_size: 'auto',
  learning_rate_multiplier: 'auto',
} as const;
/** Long enough for every right answer. */
export const ANSWER_TOKENS_MAX = 96;

/** A question the model never saw, and the one right answer. */
export interface Exercise {
  messages: Message[];
  expected: string;
}

/** The rows of heldout.jsonl, the last message of each taken off as the answer. */
export function readExercises(): Exercise[] {
  const lines = readFileSync(path.join(folder, 'heldout.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => {
    const { messages } = JSON.parse(line) as { messages: { role: string; content: string }[] };
    const answer = messages.at(-1);
    if (answer?.role !== 'assistant')
      throw new Error(`heldout.jsonl: a row does not end with an answer: ${line}`);
    return { messages: messages.slice(0, -1) as Message[], expected: answer.content };
  });
}

/** Exact match: the answer is the expected text, white space around it aside. */
export const isRight = (answer: string, { expected }: Exercise) => answer.trim() === expected.trim();
