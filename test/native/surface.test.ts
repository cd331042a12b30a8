// One list of names in three places: native/core/ops.h, native/index.ts and what the addon exports.
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

/** Name → parameter names of every method of interface Native. */
function opsOfTypes(): Map<string, string[]> {
  const text = readFileSync(join(root, 'index.ts'), 'utf8');
  const start = text.indexOf('export interface Native {');
  const body = text.slice(start, text.indexOf('\n}', start));
  const entries = body.matchAll(/^ {2}(\w+)\(([^)]*)\)/gm);
  return new Map(
    [...entries].map((m) => [m[1]!, [...m[2]!.matchAll(/(\w+)\??:/g)].map((parameter) => parameter[1]!)]),
  );
}

describe('native surface', () => {
  it('exports exactly what index.ts types', () => {
    expect(Object.keys(native).sort()).toEqual([...opsOfTypes().keys()].sort());
  });

  it('types every op of ops.h under its name, with its arguments', () => {
    const header = opsOfHeader();
    const types = opsOfTypes();
    expect(header.size).toBeGreaterThan(30);
    expect([...header.keys(), ...NOT_OPS].sort()).toEqual([...types.keys()].sort());
    for (const [name, parameters] of header) {
      // What packs a weight allocates its result instead of taking it.
      const expected = name.startsWith('packWeight') ? ['w'] : parameters;
      expect(types.get(name), name).toEqual(expected);
    }
  });

  it('has a valid call of every op for the tests beside this one', () => {
    const called = new Set(validCalls('f32').map((call) => call.op as string));
    expect([...called].sort()).toEqual([...opsOfHeader().keys()].sort());
    for (const call of validCalls('f32')) {
      expect(Object.keys(call.args), call.op).toEqual(opsOfTypes().get(call.op));
    }
  });

  it('reports what it runs on', () => {
    const info = native.info();
    expect(info.isas).toContain(info.isa);
    expect(info.isas.at(-1)).toBe('generic');
    expect(info.threads).toBeGreaterThanOrEqual(1);
  });
});
