/**
 * Feeds a multipart form to a sink as it arrives, with back-pressure and bounds: few files, few fields, and every byte
 * counted. Which field carries the file is the caller's to say.
 */
import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Busboy, type BusboyFileStream } from '@fastify/busboy';
import type { UploadSink } from '../domain/files/create.ts';
import { type ApiError, badRequest, payloadTooLarge, unsupportedMediaType } from '../errors.ts';
import type { AppContext } from './context.ts';
import { countReadBytes } from './read-buffers.ts';

/** Room for the fields and the headers of the parts, beside the file. */
const OVERHEAD_BYTES = 64 * 1024;
const LIMITS = {
  fields: 16,
  parts: 18,
  fieldNameSize: 100,
  fieldSize: 4096,
  headerPairs: 32,
  headerSize: 8192,
};

export interface FormOptions {
  /** Name of the part that carries a file; its parts arrive one after the other. */
  field?: string;
  /** How many such parts the sink wants to see; one more tells it of a repetition. */
  files?: number;
}

/**
 * Reads the request's form into `sink`. Throws ApiError 413 at the first byte over `maxFileBytes`, 400 for a broken
 * form, and the body's own error when the caller hangs up.
 */
export async function readForm(
  c: AppContext,
  maxFileBytes: number,
  sink: UploadSink,
  { field = 'file', files: maxFiles = 2 }: FormOptions = {},
): Promise<void> {
  const type = c.req.header('content-type') ?? '';
  if (!/^multipart\/form-data;.*boundary=/i.test(type)) {
    throw unsupportedMediaType("Unsupported Content-Type. Send the file as 'multipart/form-data'.");
  }
  const limit = maxFileBytes + OVERHEAD_BYTES;
  if (Number(c.req.header('content-length')) > limit) throw payloadTooLarge(maxFileBytes, field);

  const form = openForm(type, maxFileBytes, maxFiles);
  const files: Promise<void>[] = [];
  const streams: BusboyFileStream[] = [];
  form.on('file', (name, stream, filename) => {
    streams.push(stream.on('error', toldElsewhere));
    const taken =
      name === field
        ? sink.file(filename ?? '', wholeFile(stream, maxFileBytes, field))
        : skip(sink, name, stream);
    // A failed file ends the form; without this the rest of the body would wait for a reader for ever.
    taken.catch((error) => form.destroy(error));
    files.push(taken);
  });
  form.on('field', (name, value, _nameTruncated, truncated) => {
    if (truncated)
      form.destroy(badRequest(`The field '${name.slice(0, 80)}' is too long.`, name.slice(0, 80)));
    else sink.field(name, value);
  });
  for (const event of ['partsLimit', 'filesLimit', 'fieldsLimit'] as const) {
    form.on(event, () => form.destroy(badRequest('The form has too many parts.', null, 'too_many_parts')));
  }
  try {
    await pipeline(
      counted(bodyOf(c), limit, () => payloadTooLarge(maxFileBytes, field)),
      form.on('error', toldElsewhere),
    );
  } catch (error) {
    // Busboy leaves an open file waiting for ever; its reader must see the error before what it stored can be removed.
    for (const stream of streams) stream.destroy(error as Error);
    await Promise.allSettled(files);
    throw formError(error);
  }
  await Promise.all(files);
}

/** Errors of the streams reach us through the pipeline and the files' promises; unheard they would end the process. */
const toldElsewhere = () => {};

function openForm(type: string, maxFileBytes: number, maxFiles: number) {
  try {
    return new Busboy({
      headers: { 'content-type': type },
      limits: { ...LIMITS, files: maxFiles, fileSize: maxFileBytes },
      fileHwm: 1 << 18,
    });
  } catch {
    throw badRequest('The multipart form cannot be read: its Content-Type has no usable boundary.');
  }
}

/**
 * The body as it arrives: from the socket where there is one, since a web stream in between holds twice the memory.
 * Leaving it early must not destroy the socket, over which the answer still has to go.
 */
function bodyOf(c: AppContext): AsyncIterable<Uint8Array> {
  const incoming = c.env?.incoming as IncomingMessage | undefined;
  if (incoming) return incoming.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
  return c.req.raw.body ?? Readable.from([]);
}

async function* counted(
  body: AsyncIterable<Uint8Array>,
  limit: number,
  tooLarge: () => ApiError,
): AsyncGenerator<Uint8Array> {
  let received = 0;
  for await (const chunk of body) {
    received += chunk.byteLength;
    countReadBytes(chunk.byteLength);
    if (received > limit) throw tooLarge();
    yield chunk;
  }
}

/** The stream's bytes; a file cut at the limit is an error, not a shorter file. */
async function* wholeFile(
  stream: BusboyFileStream,
  maxFileBytes: number,
  field: string,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of stream) yield chunk;
  if (stream.truncated) throw payloadTooLarge(maxFileBytes, field);
}

async function skip(sink: UploadSink, name: string, stream: BusboyFileStream): Promise<void> {
  sink.field(name, '');
  stream.resume();
}

/** Busboy's own complaints (a form cut short, a broken header) are the sender's mistake. */
function formError(error: unknown): unknown {
  const message = error instanceof Error ? error.message : '';
  return /Unexpected end of (multipart|form)|Part terminated early|Malformed|Multipart/i.test(message)
    ? badRequest(`The multipart form cannot be read: ${message}.`)
    : error;
}
