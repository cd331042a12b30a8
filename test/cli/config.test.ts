/** The configuration: defaults, what a bad value says, and that a child sees what its parent saw. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Config, ConfigError, childEnvironment, loadConfig, PROJECT_ROOT } from '../../src/config.ts';
import { SETTINGS } from '../../src/settings.ts';

describe('loadConfig', () => {
  it('needs nothing', () => {
    const config = loadConfig({});
    expect(config).toMatchObject({ host: '127.0.0.1', port: 8080, databaseUrl: null, baseModels: null });
    expect(config.home).toBe(path.join(PROJECT_ROOT, '.lathe'));
    expect(config.storage).toEqual({ kind: 'disk', dir: path.join(config.home, 'storage') });
    expect(config.scratchDir).toBe(path.join(config.home, 'scratch'));
    expect(Object.isFrozen(config)).toBe(true);
  });

  it('names the variable, the value and what was expected', () => {
    const cases: [Record<string, string>, RegExp][] = [
      [{ PORT: 'eighty' }, /^PORT=eighty is not valid: expected a whole number from 0 to 65535/],
      [{ PORT: '65536' }, /^PORT=65536 is not valid: expected a whole number from 0 to 65535/],
      [{ LATHE_THREADS: '0' }, /^LATHE_THREADS=0 is not valid/],
      [{ LOG_LEVEL: 'loud' }, /^LOG_LEVEL=loud is not valid.*"debug"/],
      [{ LATHE_DEVICE: 'tpu' }, /^LATHE_DEVICE=tpu is not valid/],
      [
        { DATABASE_URL: 'mysql://root:pw@x/y' },
        /^DATABASE_URL=\(hidden\) is not valid: expected a URL that starts with postgres/,
      ],
      [{ LATHE_WORKER_TOKEN: 'short' }, /^LATHE_WORKER_TOKEN=\(hidden\) is not valid/],
      [{ LATHE_CRASH_BACKOFF_SECONDS: '1;2' }, /separated by commas/],
      [{ LATHE_CORS_ORIGINS: 'https://a.example/x' }, /^LATHE_CORS_ORIGINS=.* expected '\*' or origins/],
      [{ LATHE_CORS_ORIGINS: 'a.example' }, /expected '\*' or origins/],
      [{ LATHE_BASE_MODELS: 'a=' }, /^LATHE_BASE_MODELS=a= is not valid/],
      [{ LATHE_BASE_MODELS: 'x/m,y/m' }, /'m' is named twice/],
      [{ LATHE_QUANTIZATION: 'int4' }, /^LATHE_QUANTIZATION=int4 is not valid/],
      [
        { LATHE_QUANTIZATION: 'int8', LATHE_DEVICE: 'cuda' },
        /^LATHE_QUANTIZATION=int8 is for the CPU, but LATHE_DEVICE is cuda/,
      ],
      [{ LATHE_LEASE_SECONDS: '14' }, /^LATHE_HEARTBEAT_SECONDS=5 is too long for LATHE_LEASE_SECONDS=14/],
      [
        { LATHE_HEARTBEAT_SECONDS: '11' },
        /^LATHE_HEARTBEAT_SECONDS=11 is too long for LATHE_LEASE_SECONDS=30/,
      ],
      [{ S3_ENDPOINT: 'http://x' }, /S3_ENDPOINT is set but S3_BUCKET is not/],
      [{ S3_BUCKET: 'b', S3_ACCESS_KEY_ID: 'k' }, /only one of them is set/],
    ];
    for (const [env, message] of cases) {
      expect(() => loadConfig(env), JSON.stringify(env)).toThrow(ConfigError);
      expect(() => loadConfig(env), JSON.stringify(env)).toThrow(message);
    }
  });

  it('tells all bad values at once and never prints a secret', () => {
    const env = { PORT: 'x', LATHE_WORKER_TOKEN: 'hush', DATABASE_URL: 'hush' };
    expect(() => loadConfig(env)).toThrow(/PORT[\s\S]*DATABASE_URL|DATABASE_URL[\s\S]*PORT/);
    expect(() => loadConfig(env)).not.toThrow(/hush/);
  });

  it('takes an empty variable as unset', () => {
    expect(loadConfig({ PORT: '', S3_BUCKET: ' ' })).toMatchObject({ port: 8080, storage: { kind: 'disk' } });
  });

  it('reads origins as a list, none when the variable is empty', () => {
    expect(loadConfig({}).corsOrigins).toEqual(['*']);
    expect(loadConfig({ LATHE_CORS_ORIGINS: '' }).corsOrigins).toEqual([]);
    expect(
      loadConfig({ LATHE_CORS_ORIGINS: 'https://A.example, http://localhost:3000' }).corsOrigins,
    ).toEqual(['https://a.example', 'http://localhost:3000']);
  });

  it('reads base models as folders or as id=folder', () => {
    expect(loadConfig({ LATHE_BASE_MODELS: '/m/tiny, Qwen/Qwen3-0.6B=/m/q' }).baseModels).toEqual([
      { id: 'tiny', location: '/m/tiny' },
      { id: 'Qwen/Qwen3-0.6B', location: '/m/q' },
    ]);
  });

  it('describes every setting', () => {
    for (const setting of Object.values(SETTINGS)) {
      expect(setting.doc).toMatch(/^[A-Z].*\.$/s);
      expect(setting.env).toMatch(/^[A-Z][A-Z0-9_]+$/);
    }
  });
});

describe('childEnvironment', () => {
  const worlds: [string, Record<string, string>, Partial<Config>][] = [
    ['the defaults', {}, {}],
    [
      'a folder with odd characters',
      { LATHE_HOME: '/tmp/a,b=c [d]' },
      { baseModels: [{ id: 'x', location: '/tmp/a,b=c [d]/m' }] },
    ],
    ['no origins', { LATHE_CORS_ORIGINS: '' }, {}],
    ['overrides', { PORT: '1234' }, { home: '/tmp/x', databaseUrl: 'postgres://a:b@c/d', port: 0 }],
    [
      'everything set',
      {
        S3_BUCKET: 'b',
        S3_ENDPOINT: 'http://s3',
        S3_ACCESS_KEY_ID: 'k',
        S3_SECRET_ACCESS_KEY: 's',
        S3_PREFIX: 'p/',
        S3_CHECKSUMS: 'supported',
        LATHE_BASE_MODELS: '/m/a,b=/m/b',
        LATHE_CRASH_BACKOFF_SECONDS: '0,0.5',
        LATHE_TRAINER_ONCE: 'true',
        LATHE_WORKER_TOKEN: '0123456789abcdef',
        LATHE_SCRATCH_DIR: '/s',
        LATHE_CORS_ORIGINS: 'https://a.example,http://localhost:3000',
      },
      {},
    ],
  ];
  for (const [name, env, overrides] of worlds) {
    it(`gives a child the same configuration: ${name}`, () => {
      const config = loadConfig(env, overrides);
      const child = loadConfig(childEnvironment(config));
      expect(child).toEqual({ ...config, workerTokenShared: true });
    });
  }

  it('keeps the rest of the environment and lets changes win', () => {
    const env = childEnvironment(loadConfig({}), { PORT: '1', EXTRA: 'x' });
    expect(env).toMatchObject({ PORT: '1', EXTRA: 'x', PATH: process.env.PATH });
  });
});
