/** The comparison that every bench with a peer rests on: order, medians of pairs, and peers that misbehave. */
import { describe, expect, it } from 'vitest';
import { interleave } from '../../bench/peers/interleave.ts';
import { PeerError, PeerProcess } from '../../bench/peers/peer-process.ts';

const ANSWERING = `
  process.stdout.write('{"ready":true,"version":"1"}\\n');
  require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const { run } = JSON.parse(line);
    if (run === 'leave') process.exit(7);
    if (run === 'noise') return console.log('loading…');
    console.log(JSON.stringify(run === 'refuse' ? { error: 'no such run' } : { seconds: run, token: 42 }));
  });`;
const start = (source: string, timeoutS = 20) =>
  PeerProcess.start('other', [process.execPath, '-e', source], { timeoutS });

describe('interleave', () => {
  it('takes turns A B B A and gives the median of the pairwise ratios', async () => {
    const order: string[] = [];
    const times = { a: [9, 1, 1, 2, 2, 4], b: [9, 3, 2, 6, 2, 20] };
    const side = (name: 'a' | 'b') => ({
      name,
      run: () => {
        order.push(name);
        return { seconds: times[name].shift()! };
      },
    });
    const found = await interleave(side('a'), side('b'), 5);
    expect(order.join('')).toBe('ababbaabbaab');
    expect(found).toMatchObject({
      seconds: { a: 2, b: 3 },
      ratio: 3,
      ratio_min: 1,
      ratio_max: 5,
      spread_of_a: 2,
    });
    expect(found.blocks).toHaveLength(10);
  });

  it('refuses fewer than five pairs and a block without a time', async () => {
    const side = { name: 'a', run: () => ({ seconds: Number.NaN }) };
    await expect(interleave(side, side, 4)).rejects.toThrow('at least 5 pairs');
    await expect(interleave(side, side, 5)).rejects.toThrow('a says it took NaN seconds');
  });
});

describe('a peer process', () => {
  it('answers, is stopped while nobody waits, and says its facts', async () => {
    const peer = await start(ANSWERING);
    try {
      expect(peer.facts.version).toBe('1');
      const own = { name: 'own', run: () => ({ seconds: 0.5 }) };
      const found = await interleave(own, peer.side(1), 5);
      expect(found).toMatchObject({ ratio: 2, last: { other: { seconds: 1, token: 42 } } });
      await expect(peer.ask({ run: 'refuse' })).rejects.toThrow(new PeerError('other: no such run'));
      await expect(peer.ask({ run: 'noise' })).rejects.toThrow('wrote a line that is no JSON: loading…');
      await expect(peer.ask({ run: 'leave' })).rejects.toThrow('other ended with 7');
      await expect(peer.ask({ run: 1 })).rejects.toThrow('other ended with 7');
    } finally {
      peer.close();
    }
  });

  it('tells why it could not start', async () => {
    await expect(start('console.error("no weights"); process.exit(3)')).rejects.toThrow(
      'other ended with 3\nno weights',
    );
    await expect(start('console.log("{}"); setTimeout(() => {}, 60000)')).rejects.toThrow(
      'other began with {}',
    );
    await expect(PeerProcess.start('other', ['/nonexistent/peer'])).rejects.toThrow('could not be started');
    await expect(start('setTimeout(() => {}, 60000)', 0.3)).rejects.toThrow('gave no answer within 0.3 s');
  });
});
