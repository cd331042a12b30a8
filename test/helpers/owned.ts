/** Things with memory outside of JavaScript that tests open: they are disposed of after each test or all, newest first. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach } from 'vitest';

interface Disposable {
  dispose(): void;
}

function disposeIn(hook: (work: () => void) => void) {
  const open: Disposable[] = [];
  hook(() => {
    for (const thing of open.splice(0).reverse()) thing.dispose();
  });
  return <T extends Disposable>(thing: T): T => {
    open.push(thing);
    return thing;
  };
}

/** For a test file: registers the hook and returns the function that hands a thing over to it. */
export const disposeAfterEach = () => disposeIn(afterEach);
export const disposeAfterAll = () => disposeIn(afterAll);

/** A new folder that goes with what `own` keeps. */
export function ownFolder(own: (thing: Disposable) => void, prefix: string): string {
  const folder = mkdtempSync(join(tmpdir(), prefix));
  own({ dispose: () => rmSync(folder, { recursive: true }) });
  return folder;
}
