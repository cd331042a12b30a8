/** The listening side: draining, and connections that are slow on purpose. */
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { listen } from '../../src/server.ts';

const anywhere = { host: '127.0.0.1', port: 0 };

describe('the server', () => {
  it('lets an open answer end while it drains, refuses new requests with 503, and then closes', async () => {
    let finish = () => {};
    const server = await listen(async () => {
      await new Promise<void>((resolve) => (finish = resolve));
      return new Response('late but whole');
    }, anywhere);
    const open = fetch(server.url);
    await expect.poll(() => finish.name).not.toBe('finish');
    const closed = server.close(10);
    const refused = await fetch(server.url);
    expect(refused.status).toBe(503);
    expect(refused.headers.get('retry-after')).toBe('5');
    expect(await refused.json()).toMatchObject({ error: { code: 'server_is_overloaded' } });
    finish();
    expect(await (await open).text()).toBe('late but whole');
    await closed;
    await expect(fetch(server.url)).rejects.toThrow('fetch failed');
  });

  it('cuts what has not ended when the time is over', async () => {
    const server = await listen(() => new Promise<Response>(() => {}), anywhere);
    const open = fetch(server.url).then(
      () => 'answered',
      () => 'cut',
    );
    await sleep(50);
    const start = performance.now();
    await server.close(0.2);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(await open).toBe('cut');
  });

  it('waits for a stream to its last byte', async () => {
    const server = await listen(() => {
      const body = new ReadableStream({
        async start(controller) {
          for (const word of ['one ', 'two ', 'three']) {
            controller.enqueue(new TextEncoder().encode(word));
            await sleep(50);
          }
          controller.close();
        },
      });
      return new Response(body);
    }, anywhere);
    const answer = await fetch(server.url);
    const closed = server.close(10);
    expect(await answer.text()).toBe('one two three');
    await closed;
  });

  it('does not read headers without end', async () => {
    const server = await listen(() => new Response('ok'), anywhere);
    const { port } = new URL(server.url);
    const socket = connect(Number(port), '127.0.0.1');
    let answer = '';
    socket.on('data', (chunk) => (answer += chunk));
    socket.write(`GET / HTTP/1.1\r\nHost: x\r\nX-Long: ${'a'.repeat(20_000)}\r\n\r\n`);
    await new Promise((resolve) => socket.once('close', resolve));
    expect(answer).toContain('431');
    await server.close();
  });
});
