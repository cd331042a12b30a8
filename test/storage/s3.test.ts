/**
 * Storage on S3: the common suite against the server that LATHE_TEST_S3_ENDPOINT names (.ci/run starts one), and what
 * the client sends, seen by a small server of our own that is always there.
 */
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { CreateMultipartUploadCommand, ListPartsCommand, S3Client } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import { openS3Storage } from '../../src/storage/s3.ts';
import { ObjectNotFound, StorageUnavailable } from '../../src/storage/storage.ts';
import { storageSuite } from './storage.suite.ts';

const endpoint = process.env.LATHE_TEST_S3_ENDPOINT;
const common = { kind: 's3', region: 'us-east-1', prefix: 'lathe/', checksums: 'required' } as const;

if (endpoint) {
  const [accessKeyId = '', secretAccessKey = ''] = (process.env.LATHE_TEST_S3_KEYS ?? '').split(' ');
  const bucket = process.env.LATHE_TEST_S3_BUCKET ?? 'lathe-test';
  storageSuite(`S3 (${endpoint})`, async () =>
    openS3Storage({ ...common, bucket, endpoint, accessKeyId, secretAccessKey }),
  );

  it('ends a multipart upload whose process died, on a real server', async () => {
    const credentials = { accessKeyId, secretAccessKey };
    const client = new S3Client({ region: common.region, endpoint, forcePathStyle: true, credentials });
    const at = { Bucket: bucket, Key: `${common.prefix}dead/upload` };
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(at));
    const storage = openS3Storage({ ...common, bucket, endpoint, accessKeyId, secretAccessKey });
    expect(await storage.removeAbandoned(3_600_000)).toBe(0);
    expect(await storage.removeAbandoned(-60_000)).toBeGreaterThanOrEqual(1);
    await expect(client.send(new ListPartsCommand({ ...at, UploadId }))).rejects.toMatchObject({
      name: 'NoSuchUpload',
    });
  });
}

/** Answers every request with `answer` and keeps what came in. */
async function recorder(answer: (request: IncomingMessage) => { status: number; body?: string }) {
  const seen: { method: string; url: string; headers: IncomingMessage['headers']; body: string }[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    seen.push({ method: request.method!, url: request.url!, headers: request.headers, body });
    const { status, body: text } = answer(request);
    response.writeHead(status, { 'content-type': 'application/xml', etag: '"0"' }).end(text);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const storage = openS3Storage({
    ...common,
    bucket: 'bucket',
    endpoint: `http://127.0.0.1:${port}`,
    accessKeyId: 'key',
    secretAccessKey: 'secret',
  });
  return { seen, storage, close: () => server.close() };
}

describe('S3 storage on the wire', () => {
  it('sends a stream as a plain body: path style, prefix, no aws-chunked framing, no trailer', async () => {
    const { seen, storage, close } = await recorder(() => ({ status: 200 }));
    await storage.put(
      'projects/p/files/f',
      (async function* () {
        yield Buffer.from('hello ');
        yield Buffer.from('there');
      })(),
    );
    close();
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatchObject({ method: 'PUT', body: 'hello there' });
    expect(seen[0]!.url).toMatch(/^\/bucket\/lathe\/projects\/p\/files\/f/);
    expect(seen[0]!.headers).not.toHaveProperty('x-amz-trailer');
    expect(seen[0]!.headers['content-encoding'] ?? '').not.toContain('aws-chunked');
  });

  it('tells a bucket that does not exist, and a store that fails, from an object that does not exist', async () => {
    const error = (code: string) => `<?xml version="1.0"?><Error><Code>${code}</Code></Error>`;
    let answer = { status: 404, body: error('NoSuchKey') };
    const { storage, close } = await recorder(() => answer);
    await expect(storage.get('a')).rejects.toThrow(ObjectNotFound);
    answer = { status: 404, body: error('NoSuchBucket') };
    await expect(storage.get('a')).rejects.toThrow(StorageUnavailable);
    await expect(storage.put('a', Buffer.from('x'))).rejects.toThrow('The storage bucket does not exist.');
    answer = { status: 507, body: error('XMinioStorageFull') };
    await expect(storage.put('a', Buffer.from('x'))).rejects.toMatchObject({
      name: 'StorageUnavailable',
      full: true,
    });
    answer = { status: 403, body: error('AccessDenied') };
    await expect(storage.get('a')).rejects.toMatchObject({ name: 'AccessDenied' });
    close();
  });

  it('aborts the multipart upload when the source fails', async () => {
    const started = '<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>';
    const { seen, storage, close } = await recorder((request) => ({
      status: 200,
      body: request.url!.includes('uploads') ? `<?xml version="1.0"?>${started}` : '',
    }));
    const part = Buffer.alloc(9 * 1024 * 1024);
    async function* broken() {
      yield part;
      yield part;
      throw new Error('the client left');
    }
    await expect(storage.put('big', broken())).rejects.toThrow('the client left');
    close();
    const verbs = seen.map(({ method, url }) => `${method} ${url.includes('uploadId=u1')}`);
    expect(verbs).toContain('DELETE true');
    expect(seen.some(({ method, url }) => method === 'POST' && url.includes('uploadId'))).toBe(false);
  });

  it('tells when objects were stored, and ends multipart uploads that nobody completed', async () => {
    const upload = (key: string, id: string, at: Date) =>
      `<Upload><Key>lathe/${key}</Key><UploadId>${id}</UploadId><Initiated>${at.toISOString()}</Initiated></Upload>`;
    const [old, young] = [new Date(Date.now() - 2 * 3_600_000), new Date()];
    const page = (marker: string, list: string) =>
      `<ListMultipartUploadsResult>${marker}${list}</ListMultipartUploadsResult>`;
    const { seen, storage, close } = await recorder((request) => {
      const url = request.url!;
      if (request.method === 'DELETE') return { status: 204 };
      if (!url.includes('uploads')) {
        const object = `<Contents><Key>lathe/a</Key><Size>3</Size><LastModified>${old.toISOString()}</LastModified></Contents>`;
        return { status: 200, body: `<ListBucketResult>${object}</ListBucketResult>` };
      }
      const more =
        '<IsTruncated>true</IsTruncated><NextKeyMarker>b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>';
      const body = url.includes('key-marker=b')
        ? page('<IsTruncated>false</IsTruncated>', upload('c', 'id-3', old))
        : page(more, upload('a', 'id-1', old) + upload('b', 'id-2', young));
      return { status: 200, body };
    });
    for await (const object of storage.list(''))
      expect(object).toEqual({ key: 'a', bytes: 3, modified: old });
    expect(seen).toHaveLength(1);
    expect(await storage.removeAbandoned(3_600_000)).toBe(2);
    close();
    const aborted = seen.filter(({ method }) => method === 'DELETE').map(({ url }) => url.split('?')[0]);
    expect(aborted).toEqual(['/bucket/lathe/a', '/bucket/lathe/c']);
  });

  it('lives with a server that keeps no list of multipart uploads', async () => {
    const { storage, close } = await recorder(() => ({
      status: 501,
      body: '<?xml version="1.0"?><Error><Code>NotImplemented</Code><Message>no</Message></Error>',
    }));
    expect(await storage.removeAbandoned(0)).toBe(0);
    close();
  });

  it('gives up on a server that takes requests and never answers, or stops in the middle of an answer', async () => {
    const heads: string[] = [];
    const server = createServer((request, response) => {
      heads.push(`${request.method} ${request.url}`);
      if (request.url!.includes('half')) response.writeHead(200, { 'content-length': 10 }).write('half');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const storage = openS3Storage(
      {
        ...common,
        ...{ bucket: 'bucket', accessKeyId: 'key', secretAccessKey: 'secret' },
        endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      },
      { connectionTimeout: 1_000, socketTimeout: 100 },
    );
    const timedOut = { name: 'StorageUnavailable', cause: { name: 'TimeoutError' } };
    await Promise.all([
      expect(storage.head('silent')).rejects.toMatchObject(timedOut),
      expect(storage.put('silent', Buffer.alloc(100_000))).rejects.toMatchObject(timedOut),
      expect(storage.get('half').then((body) => body.toArray())).rejects.toMatchObject({
        name: 'TimeoutError',
      }),
    ]);
    expect(heads.filter((head) => head.startsWith('HEAD'))).toHaveLength(5); // each attempt timed out by itself
    server.closeAllConnections();
    server.close();
  });

  it('passes refusals on with their code instead of calling the object missing', async () => {
    const { storage, close } = await recorder(() => ({
      status: 403,
      body: '<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>',
    }));
    await expect(storage.get('secret')).rejects.toMatchObject({ name: 'AccessDenied' });
    await expect(storage.head('secret')).rejects.toMatchObject({ $metadata: { httpStatusCode: 403 } });
    close();
  });
});
