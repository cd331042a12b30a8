/** Clients that leave at every moment of an answer, and workers that are lost in the middle of one. Over a real port. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from '../http/scripted-worker.ts';
import { expectHealthy, expectNoErrorsLogged, expectNothingShown } from './aftermath.ts';

const t = useApp();
let worker: ScriptedWorker;
const sockets: Socket[] = [];
beforeAll(async () => {
  worker = await ScriptedWorker.start(t.database);
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await expectHealthy(t);
  expectNoErrorsLogged(t);
});
afterAll(() => worker?.stop());

const BODY = JSON.stringify({ model: BASE_MODEL, messages: [{ role: 'user', content: 'Hi' }], stream: true });

/** A connection on which the head of the request has been written, and `body`. */
async function open(body: string): Promise<Socket> {
  const { hostname, port } = new URL(await t.serve());
  const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true });
  sockets.push(socket);
  await once(socket, 'connect');
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${t.alice.key}\r\ncontent-type: application/json\r\ncontent-length: ${BODY.length}\r\n\r\n${body}`,
  );
  return socket;
}

/** Tokens for four seconds. */
const endless = () => [
  ...answerOf(['a']).slice(0, 2),
  ...Array.from({ length: 200 }, () => [20, answerOf(['b'])[1]!]).flat(),
];

it('C25 a client that leaves after the head of its request', async () => {
  const asked = worker.requests.length;
  for (const body of ['', BODY.slice(0, 20)]) {
    const socket = await open(body);
    await new Promise((resolve) => setTimeout(resolve, 20)); // the server has begun to read
    socket.destroy();
  }
  await expectHealthy(t);
  expect(worker.requests.length).toBe(asked);
});

it.each([
  ['closes', (socket: Socket) => socket.destroy()],
  ['closes its half', (socket: Socket) => socket.end()],
])('C25 a client that %s in the middle of a stream', async (_, leave) => {
  worker.script = endless();
  const left = worker.left;
  const socket = await open(BODY);
  await once(socket, 'data');
  leave(socket);
  await expect.poll(() => worker.left, { timeout: 2_000 }).toBe(left + 1);
});

it('C28 a worker that dies in the middle of a stream is one error event, then the end without [DONE]', async () => {
  worker.script = [...answerOf(['a', 'b']).slice(0, 2), 20, 'break'];
  const headers = { 'content-type': 'application/json' };
  const answer = await t.call('POST', '/v1/chat/completions', { body: BODY, headers });
  expect(answer.status).toBe(200);
  const events = answer.text.trim().split('\n\n');
  const { error } = JSON.parse(events.at(-1)!.replace(/^data: /, ''));
  expect(error).toMatchObject({ type: 'server_error', code: 'worker_lost', param: null });
  expectNothingShown(answer.text);
  expect(answer.text).not.toContain('[DONE]');
});
