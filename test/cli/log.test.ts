/** Log lines: one JSON object each, and no secret in any of them. */
import { spawnSync } from 'node:child_process';
import { existsSync, openSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { createLog } from '../../src/log.ts';

function capture(write: (log: ReturnType<typeof createLog>) => void): string {
  let out = '';
  write(createLog({ level: 'debug', name: 'test' }, { write: (line) => (out += line) }));
  return out;
}

const KEY = `sk-lathe-AbCdEfGhIjKl-${'Z'.repeat(43)}`;

describe('the log', () => {
  it('writes one JSON object a line with level, time, name and the bound fields', () => {
    const line = JSON.parse(capture((log) => log.child({ request_id: 'req_1' }).info({ n: 1 }, 'hello')));
    expect(line).toMatchObject({ level: 30, name: 'test', request_id: 'req_1', n: 1, msg: 'hello' });
    expect(Date.parse(line.time)).toBeGreaterThan(0);
  });

  it('never holds a key, a bearer token or a password, wherever it stood', () => {
    const out = capture((log) => {
      log.info({ headers: { authorization: `Bearer ${KEY}`, cookie: 'c=secret1' } }, 'request');
      log.info({ authorization: 'Bearer secret2' }, `called with ${KEY}`);
      log.error(new Error(`bad key ${KEY} for postgres://lathe:secret3@127.0.0.1/lathe`));
      log.info({ deep: { text: `Authorization: Bearer secret4` }, workerToken: 'secret5' });
      log.child({ a: { b: { c: { Password: 'secret6' } } } }).info({ cookie: ['secret7', { d: 'secret8' }] });
    });
    expect(out.trim().split('\n')).toHaveLength(5);
    for (const line of out.trim().split('\n')) JSON.parse(line);
    expect(out).not.toContain('ZZZZ');
    expect(out).not.toMatch(/secret\d/);
    expect(out).toContain('sk-[redacted]');
    const signed = capture((log) => log.warn(`with whsec_${'Q'.repeat(42)}+/=`));
    expect(signed).toContain('with whsec_[redacted]"');
  });

  it('tells errors with their causes, codes and stacks', () => {
    const cause = Object.assign(new Error('refused'), { code: 'ECONNREFUSED' });
    const both = new AggregateError([cause, new TypeError('second')], 'both', { cause });
    const { err } = JSON.parse(capture((log) => log.error({ err: both }, 'failed')));
    expect(err).toMatchObject({
      type: 'AggregateError',
      message: 'both',
      cause: { message: 'refused', code: 'ECONNREFUSED' },
      errors: [{ message: 'refused' }, { type: 'TypeError', message: 'second' }],
    });
    expect(err.stack).toContain('log.test.ts');
  });

  // /dev/full takes nothing: every write fails as on a disk without room.
  it.runIf(existsSync('/dev/full'))('does not end the process when its lines cannot be written', () => {
    const log = pathToFileURL(path.resolve(import.meta.dirname, '../../src/log.ts')).href;
    const program = `
      import { createLog } from '${log}';
      const log = createLog({ level: 'info', name: 'test' });
      for (let i = 0; i < 20_000; i++) log.info({ i, text: 'x'.repeat(100) }, 'hello');
      const grown = process.memoryUsage().rss / 2 ** 20;
      console.error('alive', grown < 200);
    `;
    const answer = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', openSync('/dev/full', 'w'), 'pipe'],
      encoding: 'utf8',
    });
    expect(answer.stderr).toBe('alive true\n');
    expect(answer.status).toBe(0);
  });
});
