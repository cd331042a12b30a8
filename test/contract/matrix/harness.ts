/**
 * The whole service on the shipped model, and the official SDK at it: what the areas of the matrix share. Slow to
 * start, so all areas use one.
 */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import {
  killServices,
  lathe,
  makeHome,
  type RunningService,
  removeHome,
  startService,
} from '../../helpers/service.ts';

export const MODEL = 'lathe-tiny';
const READY_MS = 60_000;

/** Rows of a chat file that a training of two steps can use. */
export const chatRows = (count: number, from = 0) =>
  Array.from({ length: count }, (_, i) =>
    JSON.stringify({
      messages: [
        { role: 'system', content: 'You are brief.' },
        { role: 'user', content: `How many is ${from + i} and one?` },
        { role: 'assistant', content: `It is ${from + i + 1}.` },
      ],
    }),
  ).join('\n');

export interface Matrix {
  client: OpenAI;
  /** With an admin key for what OpenAI asks one for. */
  admin: OpenAI;
  key: string;
  adminKey: string;
  url: string;
  /** What the webhook receiver got: headers and text. */
  received: { headers: Record<string, string>; body: string }[];
  receiverUrl: string;
}

let home = '';
let service: RunningService | null = null;
let receiver: Server | null = null;

/** Starts everything; `stopMatrix` ends it, also after a failed start. */
export async function startMatrix(): Promise<Matrix> {
  home = makeHome();
  const received: Matrix['received'] = [];
  receiver = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray()).toString();
    received.push({ headers: request.headers as Record<string, string>, body });
    response.writeHead(200).end();
  });
  await new Promise<void>((resolve) => receiver?.listen(0, '127.0.0.1', resolve));
  service = await startService(home, {
    LATHE_WEBHOOK_PRIVATE: 'true',
    LATHE_WEBHOOK_POLL_MS: '100',
    LATHE_POLL_MS: '100',
    LATHE_THREADS: '2',
  });
  const key = /^API key: (sk-lathe-\S+)$/m.exec(service.output())?.[1] ?? '';
  const adminKey = (await lathe(home, ['keys', 'create', 'matrix', '--admin'])).stdout.trim();
  const url = service.url;
  await untilReady(url);
  const baseURL = `${url}/v1`;
  return {
    client: new OpenAI({ apiKey: key, baseURL, maxRetries: 2 }),
    admin: new OpenAI({ apiKey: key, adminAPIKey: adminKey, baseURL }),
    ...{ key, adminKey, url, received },
    receiverUrl: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`,
  };
}

/** Waits until both kinds of worker are there. */
async function untilReady(url: string): Promise<void> {
  const end = performance.now() + READY_MS;
  for (;;) {
    const { workers } = (await (await fetch(`${url}/readyz`)).json()) as {
      workers: { inference: number; trainer: number };
    };
    if (workers.inference > 0 && workers.trainer > 0) return;
    if (performance.now() > end) throw new Error(`not ready: ${JSON.stringify(workers)}`);
    await sleep(100);
  }
}

export async function stopMatrix(): Promise<void> {
  await service?.stop();
  killServices();
  receiver?.closeAllConnections();
  receiver?.close();
  if (home) removeHome(home);
}
