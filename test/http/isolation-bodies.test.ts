/**
 * Ids inside of bodies: what belongs to another project answers exactly like what never existed. Which fields hold ids
 * is read from the app's own description, so a new one fails here until it has its line.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { openapiText } from '../../openapi/generate.ts';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { adminKeyOf } from './admin-rows.ts';
import { addTunedModel, addUpload } from './rows.ts';

const t = useApp();
const own = { file: '', upload: '', model: '' };
const bobs = { file: '', batchFile: '', part: '', model: '', project: '' };

beforeAll(async () => {
  own.file = await t.upload(TEN_ROWS);
  own.upload = await addUpload(t, t.alice);
  own.model = (await addTunedModel(t, t.alice, { tail: 'alice000' })).id;
  const { key } = t.bob;
  const request = { model: BASE_MODEL, messages: [{ role: 'user', content: 'hi' }] };
  const line = { custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: request };
  bobs.file = await t.upload(TEN_ROWS, { key });
  bobs.batchFile = await t.upload(JSON.stringify(line), { key, purpose: 'batch' });
  bobs.model = (await addTunedModel(t, t.bob, { tail: 'bob00000' })).id;
  bobs.project = t.bob.projectId;
  const form = new FormData();
  form.set('data', new File(['abc'], 'part'));
  const upload = await addUpload(t, t.bob);
  bobs.part = (await t.call('POST', `/v1/uploads/${upload}/parts`, { key, body: form })).json.id;
});

interface Case {
  foreign: () => string;
  unknown: string;
  body: (id: string) => object;
  /** The status of an unknown id. */
  status: number;
  /** Fills the ids of the path. */
  path?: () => string;
}

const job = { model: BASE_MODEL, training_file: 'file-unset' };
const UNKNOWN_MODEL = `ft:${BASE_MODEL}:umbrella::unknown0`;
/** One line per field of a JSON body that holds an id. */
const CASES: Record<string, Case> = {
  'POST /v1/fine_tuning/jobs training_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (training_file) => ({ ...job, training_file }),
  },
  'POST /v1/fine_tuning/jobs validation_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (validation_file) => ({ ...job, training_file: own.file, validation_file }),
  },
  'POST /v1/fine_tuning/jobs model': {
    ...{ foreign: () => bobs.model, unknown: UNKNOWN_MODEL, status: 400 },
    body: (model) => ({ ...job, model }),
  },
  'POST /v1/fine_tuning/exports model': {
    ...{ foreign: () => bobs.model, unknown: UNKNOWN_MODEL, status: 404 },
    body: (model) => ({ model }),
  },
  'POST /v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions project_ids': {
    ...{ foreign: () => bobs.project, unknown: 'proj_unknown', status: 400 },
    body: (id) => ({ project_ids: [id] }),
    path: () => `/v1/fine_tuning/checkpoints/${own.model}/permissions`,
  },
  'POST /v1/uploads/{upload_id}/complete part_ids': {
    ...{ foreign: () => bobs.part, unknown: 'part_unknown', status: 400 },
    body: (id) => ({ part_ids: [id] }),
    path: () => `/v1/uploads/${own.upload}/complete`,
  },
  'POST /v1/chat/completions model': {
    ...{ foreign: () => bobs.model, unknown: UNKNOWN_MODEL, status: 404 },
    body: (model) => ({ model, messages: [{ role: 'user', content: 'hi' }] }),
  },
  'POST /v1/completions model': {
    ...{ foreign: () => bobs.model, unknown: UNKNOWN_MODEL, status: 404 },
    body: (model) => ({ model, prompt: 'hi' }),
  },
  'POST /v1/fine_tuning/estimate training_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (training_file) => ({ ...job, training_file }),
  },
  'POST /v1/fine_tuning/estimate validation_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (validation_file) => ({ ...job, training_file: own.file, validation_file }),
  },
  'POST /v1/fine_tuning/estimate model': {
    ...{ foreign: () => bobs.model, unknown: UNKNOWN_MODEL, status: 400 },
    body: (model) => ({ ...job, model }),
  },
  'POST /v1/fine_tuning/validate training_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (training_file) => ({ ...job, training_file }),
  },
  'POST /v1/fine_tuning/validate validation_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (validation_file) => ({ ...job, training_file: own.file, validation_file }),
  },
  'POST /v1/fine_tuning/validate model': {
    ...{ foreign: () => bobs.model, unknown: UNKNOWN_MODEL, status: 400 },
    body: (model) => ({ ...job, model }),
  },
  'POST /v1/fine_tuning/preview training_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (training_file) => ({ ...job, training_file }),
  },
  'POST /v1/fine_tuning/preview validation_file': {
    ...{ foreign: () => bobs.file, unknown: 'file-unknown', status: 400 },
    body: (validation_file) => ({ ...job, training_file: own.file, validation_file }),
  },
  'POST /v1/fine_tuning/preview model': {
    ...{ foreign: () => bobs.model, unknown: UNKNOWN_MODEL, status: 400 },
    body: (model) => ({ ...job, model }),
  },
  'POST /v1/batches input_file_id': {
    ...{ foreign: () => bobs.batchFile, unknown: 'file-unknown', status: 400 },
    body: (input_file_id) => ({
      input_file_id,
      endpoint: '/v1/chat/completions',
      completion_window: '24h',
    }),
  },
};

/** Only null passes in these. */
const NEVER = new Set(['external_key_id']);

/** "POST /v1/… field" for every field of a described body whose name says that it holds ids. */
function idFields(): string[] {
  const document = JSON.parse(openapiText());
  type Described = { $ref?: string; properties?: object; allOf?: Described[] } | undefined;
  const namesOf = (schema: Described): string[] =>
    schema?.$ref
      ? namesOf(document.components.schemas[schema.$ref.split('/').at(-1)!])
      : [...Object.keys(schema?.properties ?? {}), ...(schema?.allOf ?? []).flatMap(namesOf)];
  return Object.entries<Record<string, never>>(document.paths).flatMap(([path, methods]) =>
    Object.entries<{ requestBody?: { content: Record<string, { schema: object }> } }>(methods).flatMap(
      ([method, { requestBody }]) =>
        namesOf(requestBody?.content['application/json']?.schema)
          .filter((field) => /(^model|_ids?|_file)$/.test(field) && !NEVER.has(field))
          .map((field) => `${method.toUpperCase()} ${path} ${field}`),
    ),
  );
}

describe('ids of another project in a body', () => {
  it('have a line here, each of them', () => {
    const fields = idFields();
    expect(fields.length).toBeGreaterThan(7);
    expect(new Set(fields)).toEqual(new Set(Object.keys(CASES)));
  });

  it('answer like unknown ones', async () => {
    for (const field of idFields()) {
      const { foreign, unknown, body, status, path } = CASES[field]!;
      const [method = '', pattern = '', name = ''] = field.split(' ');
      const ask = async (id: string) => {
        const answer = await t.call(method, path?.() ?? pattern, { json: body(id) });
        return [field, answer.status, answer.text.replaceAll(id, 'X')];
      };
      const expected = await ask(unknown);
      expect(expected.slice(0, 2)).toEqual([field, status]);
      expect(expected[2]).toContain(name);
      expect(foreign()).not.toBe('');
      expect(await ask(foreign())).toEqual(expected);
    }
  });

  it('answer like unknown ones to an admin key of another organization, too', async () => {
    const { key } = await adminKeyOf(t, t.alice);
    const share = (model: string, id: string) =>
      t.call('POST', `/v1/fine_tuning/checkpoints/${model}/permissions`, {
        key,
        json: { project_ids: [id] },
      });
    const foreign = await share(own.model, bobs.project);
    const unknown = await share(own.model, 'proj_unknown');
    expect([foreign.status, foreign.text.replaceAll(bobs.project, 'X')]).toEqual([
      ...[400, unknown.text.replaceAll('proj_unknown', 'X')],
    ]);
    expect((await share(bobs.model, t.alice.projectId)).status).toBe(404);
  });
});
