/**
 * Adapters that nobody should load, and forms that are none: each is refused with its reason, nothing is stored of it,
 * and the service lives. The operations run in this process; the processes that open the adapters are real.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { tunedModels } from '../../src/db/schema-jobs.ts';
import { useApp } from '../helpers/app.ts';
import { TinyWorld } from '../inference/tiny-worker.ts';
import { readTensors, tamper, tarOf, writeTensors } from './adapter-files.ts';
import { addBase, bringIn, CONFIG, type FormFile, serveOperations, WEIGHTS } from './adapter-service.ts';

// Generous: a process for every adapter, and the machine may be busy.
vi.setConfig({ testTimeout: 100_000, hookTimeout: 60_000 });

const t = useApp({ maxAdapterBytes: 4 * 1024 * 1024 });
let world: TinyWorld;
let operations: { stop(): Promise<void> };
let folder: string;
const adapter = { read: (name: string) => readFileSync(path.join(folder, name)) };
const both = (change: Partial<Record<string, Buffer | string>> = {}): FormFile[] =>
  [CONFIG, WEIGHTS].map((name) => [name, change[name] ?? adapter.read(name)]);
const received = async () => (await t.stored()).filter((file) => file.includes('/imports/'));

beforeAll(async () => {
  world = await TinyWorld.create();
  await addBase(t, 'tiny', world.modelDirectory);
  operations = await serveOperations(t, 'tiny', world.modelDirectory, world.home);
  folder = await world.writeAdapter(1);
});
afterAll(async () => {
  await operations?.stop();
  await world?.remove();
});

describe('a hostile import', () => {
  const config = (change: object) =>
    JSON.stringify({ ...JSON.parse(adapter.read(CONFIG).toString()), ...change });
  const weights = (change: (tensors: ReturnType<typeof readTensors>) => void) => {
    const tensors = readTensors(adapter.read(WEIGHTS));
    change(tensors);
    return writeTensors(tensors);
  };
  const first = (tensors: ReturnType<typeof readTensors>) => [...tensors][0]!;
  const good = () => ({ [CONFIG]: adapter.read(CONFIG), [WEIGHTS]: adapter.read(WEIGHTS) });
  const tar = (change: (header: Buffer) => void): FormFile[] => [['a.tar', tamper(tarOf(good()), change)]];
  const named = (name: string): FormFile[] => [['a.tar', tarOf({ ...good(), [name]: 'x' })]];

  const cases: [string, () => FormFile[], RegExp][] = [
    [
      'a pickle by name',
      () => [
        [CONFIG, adapter.read(CONFIG)],
        ['adapter_model.bin', 'x'],
      ],
      /adapter_model\.bin.*run code/,
    ],
    ['a pickle in the archive', () => named('training_args.bin'), /training_args\.bin.*run code/],
    [
      'a pickle under another name',
      () => both({ [WEIGHTS]: Buffer.from('\x80\x02}q\x00.aaaaaaa', 'latin1') }),
      /is a pickle/,
    ],
    [
      'a zip under another name',
      () => both({ [WEIGHTS]: Buffer.from('PK\x03\x04aaaaaaaaaa', 'latin1') }),
      /is a pickle/,
    ],
    ['a path that leads out', () => named('../adapter_config.json'), /leads out of its folder/],
    ['an absolute path', () => tar((h) => h.write('/etc/passwd\0', 0)), /leads out of its folder/],
    ['a path for Windows', () => named('..\\evil.json'), /leads out of its folder/],
    ['a symbolic link', () => tar((h) => h.write('2', 156)), /a symbolic link/],
    ['a hard link', () => tar((h) => h.write('1', 156)), /a hard link/],
    ['a device', () => tar((h) => h.write('3', 156)), /a device/],
    ['a pipe', () => tar((h) => h.write('6', 156)), /a pipe/],
    [
      'a wrong checksum',
      () => [['a.tar', Buffer.from(tarOf(good()).map((b, i) => (i === 3 ? b ^ 1 : b)))]],
      /damaged/,
    ],
    ['no archive at all', () => [['a.tar', Buffer.alloc(4096, 'x')]], /not a tar archive/],
    ['an archive cut short', () => [['a.tar', tarOf(good()).subarray(0, 3000)]], /cut short/],
    ['a compressed archive', () => [['a.tar.gz', 'x']], /not compressed/],
    ['one file twice', () => [...both(), [CONFIG, '{}']], /twice/],
    ['an archive with a file twice', () => [['a.tar', tarOf({ ...good(), [`x/${CONFIG}`]: '{}' })]], /twice/],
    ['no weights', () => [[CONFIG, adapter.read(CONFIG)]], /has no adapter_model\.safetensors/],
    ['an empty archive', () => [['a.tar', Buffer.alloc(1024)]], /has no adapter_config\.json/],
    ['something else', () => [['notes.txt', 'x']], /is not a file of an adapter/],
    ['a configuration that is no JSON', () => both({ [CONFIG]: '{' }), /cannot be read/],
    ['a configuration that is a list', () => both({ [CONFIG]: '[]' }), /not a JSON object/],
    ['a configuration too deep', () => both({ [CONFIG]: `${'{"a":'.repeat(50)}1${'}'.repeat(50)}` }), /nest/],
    [
      'a configuration too large',
      () => both({ [CONFIG]: `{"a":"${'x'.repeat(1_100_000)}"}` }),
      /larger than/,
    ],
    ['another method', () => both({ [CONFIG]: config({ peft_type: 'IA3' }) }), /peft_type.*IA3/],
    ['DoRA', () => both({ [CONFIG]: config({ use_dora: true }) }), /use_dora/],
    [
      'modules saved beside',
      () => both({ [CONFIG]: config({ modules_to_save: ['lm_head'] }) }),
      /modules_to_save/,
    ],
    [
      'targets that are not there',
      () => both({ [CONFIG]: config({ target_modules: ['wq'] }) }),
      /"wq" matches no linear/,
    ],
    ['a rank that is not the weights’', () => both({ [CONFIG]: config({ r: 5 }) }), /shape/],
    [
      'a huge header',
      () => both({ [WEIGHTS]: Buffer.concat([Buffer.from('ffffffffffffff7f', 'hex'), Buffer.from('{')]) }),
      /header is larger/,
    ],
    [
      'weights cut short',
      () => both({ [WEIGHTS]: adapter.read(WEIGHTS).subarray(0, -8) }),
      /ends 8 bytes before/,
    ],
    [
      'bytes behind the weights',
      () => both({ [WEIGHTS]: Buffer.concat([adapter.read(WEIGHTS), Buffer.from('x')]) }),
      /no tensor covers/,
    ],
    [
      'NaN',
      () => both({ [WEIGHTS]: weights((all) => void first(all)[1].bytes.writeFloatLE(Number.NaN, 4)) }),
      /not finite/,
    ],
    [
      'infinity',
      () => both({ [WEIGHTS]: weights((all) => void first(all)[1].bytes.writeFloatLE(-1 / 0, 8)) }),
      /not finite/,
    ],
    [
      'whole numbers',
      () => both({ [WEIGHTS]: weights((all) => void Object.assign(first(all)[1], { dtype: 'I32' })) }),
      /I32, not a usable float/,
    ],
    [
      'a wrong shape',
      () => both({ [WEIGHTS]: weights((all) => void first(all)[1].shape.reverse()) }),
      /shape/,
    ],
    [
      'a tensor missing',
      () => both({ [WEIGHTS]: weights((all) => void all.delete(first(all)[0])) }),
      /lora_A/,
    ],
    [
      'a tensor nobody asked for',
      () => both({ [WEIGHTS]: weights((all) => void all.set('x', first(all)[1])) }),
      /holds x, which/,
    ],
  ];

  it.each(cases)('%s is refused', async (_, form, reason) => {
    const models = await t.database.db.$count(tunedModels);
    const answer = await bringIn(t, form());
    expect([answer.status, answer.json.error.type]).toEqual([400, 'invalid_request_error']);
    expect(['invalid_adapter', 'invalid_archive']).toContain(answer.json.error.code);
    expect(answer.json.error.param).toBe('file');
    expect(answer.json.error.message).toMatch(reason);
    expect(answer.json.error.message).not.toMatch(/\/tmp|cache\/operations/);
    expect(await t.database.db.$count(tunedModels)).toBe(models);
    await vi.waitFor(async () => expect(await received()).toEqual([]));
    expect((await t.call('GET', '/healthz')).status).toBe(200);
  });

  it('with a pattern that never ends costs one process for a while, and is refused', async () => {
    const target_modules = '([a-z0-9_.]+)+!'; // every way to split a name is tried
    const started = performance.now();
    const answer = await bringIn(t, both({ [CONFIG]: config({ target_modules }) }));
    expect([answer.status, answer.json.error.code]).toEqual([400, 'invalid_adapter']);
    expect(answer.json.error.message).toMatch(/took too long/);
    expect(performance.now() - started).toBeLessThan(60_000);
    expect((await bringIn(t, both())).status).toBe(200);
  });

  it('is refused for its form', async () => {
    const answers = [
      await bringIn(t, []),
      await bringIn(t, both(), { base_model: 'nobody' }),
      await bringIn(t, both({ [CONFIG]: config({ base_model_name_or_path: 'meta/else' }) }), {}),
      await bringIn(t, both({ [CONFIG]: config({ base_model_name_or_path: null }) }), {}),
      await bringIn(t, both(), { base_model: 'tiny', suffix: 'x'.repeat(65) }),
      await bringIn(t, both(), { base_model: 'tiny', name: 'x' }),
      await bringIn(t, [[WEIGHTS, Buffer.concat([adapter.read(WEIGHTS), Buffer.alloc(5 * 1024 * 1024)])]]),
    ];
    expect(answers.map(({ status, json }) => [status, json.error.code, json.error.param])).toEqual([
      [400, 'missing_required_parameter', 'file'],
      [400, 'model_not_available', 'base_model'],
      [400, 'invalid_adapter', 'base_model'],
      [400, 'missing_required_parameter', 'base_model'],
      [400, 'string_above_max_length', 'suffix'],
      [400, 'unknown_parameter', 'name'],
      [413, 'payload_too_large', 'file'],
    ]);
    expect(await received()).toEqual([]);
  });
});
