/**
 * The page of the API's description in a real browser: LATHE_TEST_CHROMIUM names a Chromium (.ci/run installs one).
 * The browser has no way out but the API itself, so a page that needs anything from elsewhere stays empty.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { useApp } from '../helpers/app.ts';

const chromium = process.env.LATHE_TEST_CHROMIUM;
const run = promisify(execFile);

/** The page's HTML after its scripts have run. */
async function rendered(url: string): Promise<string> {
  const profile = await mkdtemp(path.join(tmpdir(), 'lathe-browser-'));
  const flags = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    `--user-data-dir=${profile}`,
    '--virtual-time-budget=20000',
    '--dump-dom',
  ];
  try {
    const { stdout } = await run(chromium!, [...flags, url], { timeout: 90_000, maxBuffer: 64 * 2 ** 20 });
    return stdout;
  } finally {
    await rm(profile, { recursive: true, force: true });
  }
}

describe.runIf(chromium)('the documentation page in a browser', () => {
  const t = useApp();
  let html = '';
  beforeAll(async () => {
    const { origin } = new URL(await t.serve());
    html = await rendered(`${origin}/docs`);
  }, 120_000);

  it('shows every path of the API', async () => {
    const { json } = await t.call('GET', '/openapi.json');
    const text = html.replaceAll('\u200b', '').replaceAll('<wbr>', '');
    const missing = Object.keys(json.paths).filter((route) => !text.includes(`data-path="${route}"`));
    expect(Object.keys(json.paths).length).toBeGreaterThan(10);
    expect(missing).toEqual([]);
  });

  it('loads nothing from elsewhere', () => {
    const links = [...html.matchAll(/<(?:script|link|img|iframe)[^>]+(?:src|href)="([^"]+)"/g)].map(
      (m) => m[1]!,
    );
    expect(links.length).toBeGreaterThan(1);
    expect(links.filter((link) => /^(https?:)?\/\//.test(link) && !link.includes('127.0.0.1'))).toEqual([]);
  });
});
