/** Where webhooks may go: the public internet, whatever a URL or a name looks like. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, it } from 'vitest';
import { isPublicAddress, publicLookup } from '../../src/domain/webhooks/addresses.ts';
import { faultOf, send } from '../../src/domain/webhooks/send.ts';

describe('the guard against private addresses', () => {
  const closed = { allowPrivate: false, timeoutMilliseconds: 1_000 };

  it.each([
    ...['0.0.0.0', '10.1.2.3', '100.64.0.1', '127.0.0.1', '127.255.255.255', '169.254.169.254', '172.16.0.1'],
    ...[
      '172.31.255.255',
      '192.168.1.1',
      '192.0.0.8',
      '198.18.0.1',
      '224.0.0.1',
      '255.255.255.255',
      '::',
      '::1',
    ],
    ...[
      '::ffff:127.0.0.1',
      '::ffff:10.0.0.1',
      '64:ff9b::7f00:1',
      '2002:7f00:1::',
      'fc00::1',
      'fd12::1',
      'fe80::1',
    ],
    ...['ff02::1', '::127.0.0.1', 'fec0::1', 'not-an-address'],
  ])('%s is private', (address) => expect(isPublicAddress(address)).toBe(false));

  it.each(['1.1.1.1', '8.8.8.8', '172.32.0.1', '100.128.0.1', '2606:4700::1111', '::ffff:8.8.8.8'])(
    '%s is public',
    (address) => expect(isPublicAddress(address)).toBe(true),
  );

  it.each([
    ...[
      'http://example.com/',
      'https://127.0.0.1/',
      'https://2130706433/',
      'https://0x7f.1/',
      'https://0177.0.0.1/',
    ],
    ...[
      'https://[::1]/',
      'https://[::ffff:127.0.0.1]/',
      'https://localhost/',
      'https://a.localhost./',
      'https://①②⑦.0.0.1/',
    ],
    ...[
      'https://169.254.169.254/latest/meta-data',
      'file:///etc/passwd',
      'gopher://example.com',
      'https://u@example.com',
    ],
  ])('%s is refused', async (url) => {
    expect(faultOf(url, closed)).not.toBeNull();
    expect(await send(url, {}, '{}', closed)).toMatchObject({ status: null });
  });

  it('looks at the address that is connected to: a name that resolves to a private one is refused', async () => {
    const error = await new Promise((resolve) => publicLookup('localhost', { all: true }, (e) => resolve(e)));
    expect(error).toMatchObject({ name: 'AddressRefused' });
    expect(faultOf('https://example.com/', closed)).toBeNull();
  });

  it('gives up on a receiver that does not answer', async () => {
    const silent = createServer(() => {});
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}/slow`;
    const sent = await send(url, {}, '{}', { allowPrivate: true, timeoutMilliseconds: 100 });
    expect(sent).toEqual({ status: null, error: 'no answer in time' });
    silent.closeAllConnections();
    silent.close();
  });
});
