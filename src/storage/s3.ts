/**
 * Storage in an S3 bucket. Path-style addresses and checksums only where the service insists, because many compatible
 * servers know neither trailers nor CRC32; our own sha256 is kept in Postgres instead. All writes go through Upload,
 * which sends plain bodies and aborts its multipart upload when the source fails.
 */

import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import type { StorageConfig } from '../config.ts';
import {
  type ByteRange,
  checkKey,
  chunksOf,
  Digest,
  type ListedObject,
  ObjectNotFound,
  type Storage,
  StorageUnavailable,
  type StoredObject,
} from './storage.ts';

type S3Config = Extract<StorageConfig, { kind: 's3' }>;

/** 8 MiB parts, two at a time: 24 MiB of buffers per upload, objects up to 80 GiB. */
const PART_BYTES = 8 * 1024 * 1024;
const PARTS_IN_FLIGHT = 2;

/**
 * A server that stays silent this long fails the attempt; the SDK tries again. socketTimeout is the one that ends a
 * request: the SDK's requestTimeout only writes a warning.
 */
const TIMEOUTS = { connectionTimeout: 5_000, socketTimeout: 30_000 };

/** Opens the bucket; connects with the first request. Without keys the SDK's own chain (instance role, …) is used. */
export function openS3Storage(config: S3Config, timeouts = TIMEOUTS): Storage {
  const checksums = config.checksums === 'supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED';
  const client = new S3Client({
    region: config.region,
    forcePathStyle: true,
    requestChecksumCalculation: checksums,
    responseChecksumValidation: checksums,
    maxAttempts: 5,
    requestHandler: timeouts,
    ...(config.endpoint !== null && { endpoint: config.endpoint }),
    ...(config.accessKeyId !== null &&
      config.secretAccessKey !== null && {
        credentials: { accessKeyId: config.accessKeyId, secretAccessKey: config.secretAccessKey },
      }),
  });
  const at = (key: string) => {
    checkKey(key);
    return { Bucket: config.bucket, Key: config.prefix + key };
  };
  return {
    put: (key, body) => put(client, at(key), body),
    get: (key, range) => get(client, at(key), key, range),
    head: (key) => head(client, at(key)),
    delete: async (key) => {
      await client.send(new DeleteObjectCommand(at(key))).catch(raise);
    },
    list: (prefix) => list(client, config, prefix),
    removeAbandoned: (olderThanMs) => abortAbandoned(client, config, olderThanMs).catch(raise),
  };
}

interface Address {
  Bucket: string;
  Key: string;
}

async function put(
  client: S3Client,
  at: Address,
  body: AsyncIterable<Uint8Array> | Uint8Array,
): Promise<StoredObject> {
  const digest = new Digest();
  let source: { error: unknown } | null = null;
  const watched = async function* () {
    try {
      yield* digest.through(chunksOf(body));
    } catch (error) {
      source = { error };
      throw error;
    }
  };
  const upload = new Upload({
    client,
    params: { ...at, Body: Readable.from(watched(), { objectMode: false }) },
    partSize: PART_BYTES,
    queueSize: PARTS_IN_FLIGHT,
  });
  await upload.done().catch((error: unknown) => {
    if (source) throw source.error; // a caller that left, say: not the store's fault
    raise(error);
  });
  return digest.result();
}

async function get(client: S3Client, at: Address, key: string, range?: ByteRange): Promise<Readable> {
  try {
    const header = range ? { Range: `bytes=${range.start}-${range.end ?? ''}` } : {};
    const answer = await client.send(new GetObjectCommand({ ...at, ...header }));
    if (!(answer.Body instanceof Readable)) throw new Error(`S3 answered '${key}' without a body.`);
    return answer.Body;
  } catch (error) {
    if (statusOf(error) === 404 && nameOf(error) !== NO_BUCKET) throw new ObjectNotFound(key);
    if (statusOf(error) === 416) throw new RangeError(`A range of '${key}' cannot start at ${range?.start}.`);
    return raise(error);
  }
}

async function head(client: S3Client, at: Address): Promise<{ bytes: number } | null> {
  try {
    const answer = await client.send(new HeadObjectCommand(at));
    return { bytes: answer.ContentLength ?? 0 };
  } catch (error) {
    if (statusOf(error) === 404) return null; // the answer has no body: nothing tells a missing bucket apart
    return raise(error);
  }
}

async function* list(client: S3Client, config: S3Config, prefix: string): AsyncGenerator<ListedObject> {
  const pages = paginateListObjectsV2({ client }, { Bucket: config.bucket, Prefix: config.prefix + prefix });
  for (;;) {
    const page = await pages.next().catch(raise);
    if (page.done) return;
    for (const object of page.value.Contents ?? []) {
      if (object.Key === undefined) continue;
      yield {
        key: object.Key.slice(config.prefix.length),
        bytes: object.Size ?? 0,
        modified: object.LastModified ?? new Date(), // a server that does not tell: as young as can be
      };
    }
  }
}

/** Ends multipart uploads that their process did not live to complete; their parts are stored but no list shows them. */
async function abortAbandoned(client: S3Client, config: S3Config, olderThanMs: number): Promise<number> {
  let aborted = 0;
  let marker: { KeyMarker?: string; UploadIdMarker?: string } = {};
  for (;;) {
    const page = await client
      .send(new ListMultipartUploadsCommand({ Bucket: config.bucket, Prefix: config.prefix, ...marker }))
      .catch((error: unknown) => {
        if (statusOf(error) === 501) return null; // the server keeps no such list
        throw error;
      });
    for (const { Key, UploadId, Initiated } of page?.Uploads ?? []) {
      if (!Key || !UploadId || !Initiated || Date.now() - Initiated.getTime() < olderThanMs) continue;
      await client.send(new AbortMultipartUploadCommand({ Bucket: config.bucket, Key, UploadId }));
      aborted++;
    }
    if (!page?.IsTruncated || !page.NextKeyMarker) return aborted;
    marker = { KeyMarker: page.NextKeyMarker, UploadIdMarker: page.NextUploadIdMarker };
  }
}

const NO_BUCKET = 'NoSuchBucket';
/** 404 to the end of an upload: an earlier try may have ended it, its answer being lost. */
const NO_UPLOAD = 'NoSuchUpload';
const UNREACHABLE =
  /^(ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ENETDOWN|ERR_STREAM_PREMATURE_CLOSE)$/;
const TIMED_OUT = ['TimeoutError', 'NetworkingError', 'RequestTimeout'];

/** Throws `error`, as StorageUnavailable where the store is at fault. */
function raise(error: unknown): never {
  const [status, name, code] = [statusOf(error) ?? 0, nameOf(error), (error as { code?: unknown })?.code];
  if (name === NO_BUCKET)
    throw new StorageUnavailable('The storage bucket does not exist.', { cause: error });
  if (status === 507) throw new StorageUnavailable('The storage is full.', { full: true, cause: error });
  const away =
    status >= 500 ||
    status === 429 ||
    name === NO_UPLOAD ||
    TIMED_OUT.includes(name) ||
    UNREACHABLE.test(String(code));
  if (away) throw new StorageUnavailable('The storage cannot be reached.', { cause: error });
  throw error;
}

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : '');

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
}
