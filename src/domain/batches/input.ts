/**
 * The input file of a batch: where its lines are, and what each asks for. Lines are found once and then read by their
 * place, so that no stream has to stay open for as long as a batch runs.
 */
import type { BatchLineError } from '../../db/schema-batches.ts';
import type { Storage } from '../../storage/storage.ts';
import { JsonFault, scanJson } from '../files/json-scan.ts';

export const LINES_MAX = 50_000;
const LINE_BYTES_MAX = 4 * 1024 * 1024;
/** Bytes read at once while the batch runs; a longer line is read alone. */
const CHUNK_BYTES = 4 * 1024 * 1024;
const CHUNK_LINES = 256;
const LIMITS = { depth: 32, nodes: 250_000 };
const NEWLINE = 0x0a;

/** A line that holds a request: its number (from 1, blank lines counted too) and its place. */
export interface LinePlace {
  number: number;
  start: number;
  end: number;
}

export interface BatchRequest {
  customId: string;
  model: string;
  body: Record<string, unknown>;
}

/** Where the file's lines are; blank ones are left out. More than LINES_MAX end the search one past it. */
export async function findLines(storage: Storage, key: string): Promise<LinePlace[]> {
  const places: LinePlace[] = [];
  let [number, start, at] = [1, 0, 0];
  let blank = true;
  const close = (end: number) => {
    if (!blank) places.push({ number, start, end });
    number += 1;
    start = end + 1;
    blank = true;
  };
  for await (const chunk of (await storage.get(key)) as AsyncIterable<Uint8Array>) {
    let i = at === 0 && chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf ? 3 : 0;
    for (; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (byte === NEWLINE) close(at + i);
      else if (blank && byte !== 0x20 && byte !== 0x09 && byte !== 0x0d) {
        blank = false;
        start = at + i;
      }
      if (places.length > LINES_MAX) return places;
    }
    at += chunk.length;
  }
  close(at);
  return places;
}

/** The texts of these lines, in order, a few at a time. */
export async function* readLines(
  storage: Storage,
  key: string,
  places: readonly LinePlace[],
): AsyncGenerator<[LinePlace, Uint8Array]> {
  for (let from = 0; from < places.length; ) {
    let to = from + 1;
    const first = places[from]!;
    while (to < places.length && to - from < CHUNK_LINES && places[to]!.end - first.start <= CHUNK_BYTES)
      to += 1;
    const end = Math.min(places[to - 1]!.end, first.start + LINE_BYTES_MAX + CHUNK_BYTES);
    const bytes = Buffer.concat(
      await (await storage.get(key, { start: first.start, end: end - 1 })).toArray(),
    );
    for (const place of places.slice(from, to))
      yield [place, bytes.subarray(place.start - first.start, place.end - first.start)];
    from = to;
  }
}

/** What the line asks for, or what is wrong with it. The body itself is checked by the endpoint when its turn comes. */
export function parseLine(bytes: Uint8Array, endpoint: string): BatchRequest | Omit<BatchLineError, 'line'> {
  if (bytes.length > LINE_BYTES_MAX)
    return problem('line_too_long', `This line is longer than ${LINE_BYTES_MAX} bytes.`, null);
  let value: unknown;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    scanJson(text, LIMITS);
    value = JSON.parse(text);
  } catch (error) {
    if (error instanceof JsonFault) return problem(error.code, error.message, error.path);
    return problem('invalid_json_line', 'This line is not parseable as valid JSON.', null);
  }
  if (!isObject(value)) return problem('invalid_json_line', 'This line is not a JSON dictionary.', null);
  const missing = ['custom_id', 'method', 'url', 'body'].find((name) => value[name] === undefined);
  if (missing)
    return problem('missing_required_parameter', `Missing required parameter: '${missing}'.`, missing);
  const { custom_id: customId, method, url, body } = value;
  if (typeof customId !== 'string' || customId === '' || customId.length > 512)
    return problem(
      'invalid_custom_id',
      "Invalid 'custom_id': expected a string of 1 to 512 characters.",
      'custom_id',
    );
  if (method !== 'POST')
    return problem('invalid_method', "Invalid 'method': only 'POST' is supported.", 'method');
  if (url !== endpoint)
    return problem(
      'invalid_url',
      `The URL provided for this request does not match the batch endpoint '${endpoint}'.`,
      'url',
    );
  if (!isObject(body)) return problem('invalid_type', "Invalid type for 'body': expected an object.", 'body');
  const { model } = body;
  if (model === undefined)
    return problem('missing_required_parameter', "Missing required parameter: 'body.model'.", 'body.model');
  if (typeof model !== 'string')
    return problem('invalid_type', "Invalid type for 'body.model': expected a string.", 'body.model');
  return { customId, model, body };
}

const problem = (code: string, message: string, param: string | null) => ({ code, message, param });

const isObject = (value: unknown): value is Record<string, unknown> =>
  value !== null && typeof value === 'object' && !Array.isArray(value);
