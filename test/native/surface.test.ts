// One list of names in three places: native/core/ops.h, the types (native/ops.ts, index.ts) and what the addon exports.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { validCalls } from './calls.ts';
import { NOT_OPS } from './not-ops.ts';
import { native } from './tensors.ts';

const root = join(import.meta.dirname, '..', '..', 'native');
/** Name → parameter names of every entry of struct Ops. */
function opsOfHeader(): Map<string, string[]> {
  const text = readFileSync(join(root, 'core', 'ops.h'), 'utf8');
  const struct = text.slice(text.indexOf('struct Ops {'), text.indexOf('\n};', text.indexOf('struct Ops {')));
  const entries = struct.replace(/\/\/.*$/gm, '').matchAll(/\(\*(\w+)\)\(([^)]*)\)/g);
  return new Map(
    [...entries].map((m) => [m[1]!, m[2]!.split(',').map((p) => p.trim().split(/\s+/).at(-1)!)]),
  );
}

/** Name → parameter names of every method that stands in this interface itself. */
function methodsOf(file: string, name: string): Map<string, string[]> {
  const text = readFileSync(join(root, file), 'utf8');
  const start = text.indexOf(`export interface ${name} `);
  const body = text.slice(start, text.indexOf('\n}', start));
  const entries = body.matchAll(/^ {2}(\w+)\(([^)]*)\)/gm);
  return new Map(
    [...entries].map((m) => [m[1]!, [...m[2]!.matchAll(/(\w+)\??:/g)].map((parameter) => parameter[1]!)]),
  );
}

const typedOps = methodsOf('ops.ts', 'NativeOps');
const typedRest = methodsOf('index.ts', 'Native');

describe('native surface', () => {
  it('exports exactly what is typed', () => {
    expect(Object.keys(native).sort()).toEqual([...typedOps.keys(), ...typedRest.keys()].sort());
    expect([...typedRest.keys()].sort()).toEqual([...NOT_OPS].sort());
  });

  it('types every op of ops.h under its name, with its arguments', () => {
    const header = opsOfHeader();
    expect(header.size).toBeGreaterThan(30);
    expect([...header.keys()].sort()).toEqual([...typedOps.keys()].sort());
    for (const [name, parameters] of header) {
      // What packs a weight allocates its result instead of taking it.
      const expected = name.startsWith('packWeight') ? ['w'] : parameters;
      expect(typedOps.get(name), name).toEqual(expected);
    }
  });

  it('has a valid call of every op for the tests beside this one', () => {
    const called = new Set(validCalls('f32').map((call) => call.op as string));
    expect([...called].sort()).toEqual([...opsOfHeader().keys()].sort());
    for (const call of validCalls('f32')) {
      expect(Object.keys(call.args), call.op).toEqual(typedOps.get(call.op));
    }
  });

  it('reports what it runs on', () => {
    const info = native.info();
    expect(info.isas).toContain(info.isa);
    expect(info.isas.at(-1)).toBe('generic');
    expect(info.threads).toBeGreaterThanOrEqual(1);
  });
});
