/**
 * Upload, fine-tune, follow, chat: with the official SDK, as one would against OpenAI.
 *
 *   npm start                                   (in another terminal; it prints the key)
 *   export OPENAI_API_KEY=sk-lathe-… OPENAI_BASE_URL=http://127.0.0.1:8080/v1
 *   node_modules/.bin/node examples/fine-tune.ts
 *
 * That is the Node that came with the packages on Linux; elsewhere take your own, 22.18 or later.
 */
import { createReadStream } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';

const client = new OpenAI(); // reads OPENAI_API_KEY and OPENAI_BASE_URL
const data = new URL('data/', import.meta.url);

const upload = (name: string) =>
  client.files.create({ file: createReadStream(new URL(name, data)), purpose: 'fine-tune' });
const [training, validation] = [await upload('train.jsonl'), await upload('valid.jsonl')];

let job = await client.fineTuning.jobs.create({
  model: 'lathe-tiny',
  training_file: training.id,
  validation_file: validation.id,
  suffix: 'orders',
});
console.log(`created ${job.id}`);

const seen = new Set<string>();
while (!['succeeded', 'failed', 'cancelled'].includes(job.status)) {
  await sleep(1000);
  const events = await client.fineTuning.jobs.listEvents(job.id, { limit: 100 });
  for (const event of events.data.toReversed()) {
    if (!seen.has(event.id)) console.log(event.message);
    seen.add(event.id);
  }
  job = await client.fineTuning.jobs.retrieve(job.id);
}
if (!job.fine_tuned_model) throw new Error(job.error?.message ?? `the job was ${job.status}`);

const stream = await client.chat.completions.create({
  model: job.fine_tuned_model,
  messages: [
    { role: 'system', content: 'You take orders for the shop.' },
    { role: 'user', content: 'Hi, Ann here. Three blue cups for Friday, please.' },
  ],
  temperature: 0,
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? '');
console.log();
