// Whatever JavaScript passes, the addon answers with an Error that names op and argument; it never crashes.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Handle } from '../../native/index.ts';
import { type Call, run, validCalls } from './calls.ts';
import { bytes, native, seededNumbers, tensor } from './tensors.ts';

const folder = mkdtempSync(join(tmpdir(), 'lathe-native-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The message of the Error that `f` throws; fails when it throws none or anything else. */
function messageOf(f: () => unknown): string {
  try {
    f();
  } catch (error) {
    expect(error).toBeInstanceOf(Error);
    expect((error as { code?: string }).code).toMatch(/^LATHE_/);
    return (error as Error).message;
  }
  throw new Error('no error');
}

function withArgument(call: Call, name: string, value: unknown): Call {
  return { ...call, args: { ...call.args, [name]: value as Handle } };
}

function freed(): Handle {
  const handle = tensor('f32', [2]);
  native.tensorFree(handle);
  return handle;
}

const isHandle = (value: unknown) => typeof value === 'object' && value !== null;

describe.each(validCalls('f32').map((call) => [call.op, call] as const))('%s', (op, call) => {
  it('runs as given and refuses any other number of arguments', () => {
    run(call);
    const args = Object.values(call.args);
    const f = native[op] as (...args: unknown[]) => unknown;
    expect(messageOf(() => f(...args.slice(1)))).toContain(`${op}: expected ${args.length} arguments`);
    expect(messageOf(() => f(...args, 0))).toContain(`${op}: expected ${args.length} arguments`);
  });

  it('names a handle that is none, was freed, or is of another type or shape', () => {
    for (const [name, value] of Object.entries(call.args)) {
      if (!isHandle(value)) continue;
      const foreign: unknown[] = [{}, [], 42, 'x', true, Symbol('x'), () => 0, new Float32Array(4), freed()];
      if (!call.optional?.includes(name)) foreign.push(null, undefined);
      for (const bad of foreign) {
        expect(messageOf(() => run(withArgument(call, name, bad)))).toContain(`${op}: ${name}: `);
      }
      const { dtype, dims } = native.tensorInfo(value as Handle);
      const otherType = tensor(dtype === 'u8' ? 'f32' : 'u8', dims);
      // One byte less than anything else has: no op accepts both of these.
      const otherShape = tensor(dtype, [...dims.slice(0, -1), dims.at(-1)! + 1]);
      // copy takes u8 bytes; reductions and scale take any shape; a longer table of ids or positions is legal.
      const wrong = op === 'copy' ? [otherShape] : [otherType, otherShape];
      for (const bad of wrong) {
        const free = bad === otherShape && acceptsOtherShape(op, name);
        if (!free) expect(messageOf(() => run(withArgument(call, name, bad)))).toContain(`${op}: `);
      }
    }
  });

  it('names a number that is none, not finite or out of range', () => {
    for (const [name, value] of Object.entries(call.args)) {
      if (typeof value === 'boolean') {
        expect(messageOf(() => run(withArgument(call, name, 1)))).toContain(`${op}: ${name}: `);
      }
      if (typeof value !== 'number') continue;
      for (const bad of ['1', null, undefined, {}, Number.NaN, Number.POSITIVE_INFINITY, 10n ** 30n]) {
        expect(messageOf(() => run(withArgument(call, name, bad)))).toContain(`${op}: ${name}: `);
      }
      if (['headDim', 'blockSize', 'window', 'step', 'seed', 'stream'].includes(name)) {
        for (const bad of [-1, 0.5, 2 ** 60]) {
          expect(messageOf(() => run(withArgument(call, name, bad)))).toContain(`${op}: `);
        }
      }
    }
  });

  it('refuses to write to a file mapping, and changes nothing', () => {
    for (const name of call.outputs) {
      const { dtype, dims, bytes: size } = native.tensorInfo(call.args[name] as Handle);
      const path = join(folder, `${op}-${name}`);
      writeFileSync(path, Buffer.alloc(size, 1));
      const mapped = native.tensorView(native.mapFile(path), 0, dims, dtype);
      expect(messageOf(() => run(withArgument(call, name, mapped)))).toMatch(
        new RegExp(`^${op}: ${name}: .*read-only`),
      );
      expect(bytes(mapped).every((byte) => byte === 1)).toBe(true);
    }
  });
});

/** Arguments whose last dimension is free on its own: the op takes any shape there. */
function acceptsOtherShape(op: string, name: string): boolean {
  const free: Record<string, string[]> = {
    fill: ['x'],
    scale: ['y'],
    sumSquares: ['x'],
    hasNonFinite: ['x'],
    randomUniform: ['x'],
    randomNormal: ['x'],
    packWeight: ['w'],
    packWeightInt8: ['w'],
    pagedAttentionForward: ['blockTables'],
    linearGroup: ['pool'],
  };
  return free[op]?.includes(name) ?? false;
}

describe('indices and offsets', () => {
  const call = (op: string) => validCalls('f32').find((c) => c.op === op)!;
  const int = (...numbers: number[]) => tensor('i32', [numbers.length], numbers);

  it.each([
    ['embeddingForward', 'ids', 97],
    ['embeddingBackward', 'ids', 97],
    ['gatherRows', 'rows', 301],
    ['scatterAddRows', 'rows', 301],
    ['linearCrossEntropy', 'targets', 97],
    ['qkNormRopeForward', 'positions', 150],
    ['qkNormRopeBackward', 'positions', 150],
    ['kvWrite', 'slots', 480],
  ])('%s refuses %s outside its table', (op, name, limit) => {
    const valid = call(op);
    const count = native.tensorInfo(valid.args[name] as Handle).dims[0]!;
    for (const bad of [-1, limit, 2 ** 31 - 1, -(2 ** 31)]) {
      const list = Array.from({ length: count }, (_, i) => (i === count - 1 ? bad : i % 90));
      expect(messageOf(() => run(withArgument(valid, name, int(...list))))).toMatch(
        `${op}: ${name}: element`,
      );
    }
  });

  it.each(['scatterAddRows', 'kvWrite'])('%s refuses a row that appears twice', (op) => {
    const name = op === 'kvWrite' ? 'slots' : 'rows';
    const valid = call(op);
    const count = native.tensorInfo(valid.args[name] as Handle).dims[0]!;
    const twice = Array.from({ length: count }, (_, i) => (i === 5 ? 3 : i));
    expect(messageOf(() => run(withArgument(valid, name, int(...twice))))).toContain('value 3 appears twice');
  });

  it('attention refuses offsets that do not start at 0, fall, or miss the end', () => {
    for (const bad of [[], [1, 301], [0, 200, 100, 301], [0, 300], [0, 302], [0, -1, 301]]) {
      for (const op of ['attentionForward', 'attentionBackward']) {
        expect(messageOf(() => run(withArgument(call(op), 'cuSeqlens', int(...bad))))).toContain(
          `${op}: cuSeqlens: `,
        );
      }
    }
  });

  it('paged attention refuses lengths and blocks outside the cache', () => {
    const valid = call('pagedAttentionForward');
    const bad = (name: string, value: Handle) => messageOf(() => run(withArgument(valid, name, value)));
    expect(bad('contextLens', int(17, 3))).toContain('contextLens: must include the new tokens');
    expect(bad('contextLens', int(17, 33))).toContain('contextLens: needs more blocks');
    expect(bad('contextLens', int(-1, 32))).toContain('contextLens: ');
    expect(bad('blockTables', tensor('i32', [2, 2], [0, 1, 2, 30]))).toContain('blockTables: ');
    expect(bad('blockTables', tensor('i32', [2, 2], [0, -1, 2, 3]))).toContain('blockTables: ');
    expect(bad('cuSeqlensQ', int(0, 4, 2))).toContain('cuSeqlensQ: ');
  });

  it('gemmPacked refuses bytes that packWeight did not make', () => {
    const valid = call('gemmPacked');
    const packed = valid.args.packed as Handle;
    const { dims } = native.tensorInfo(packed);
    const forged = tensor('u8', dims, bytes(packed));
    native.tensorWrite(forged, new BigInt64Array([2n ** 40n]), 8);
    for (const bad of [tensor('u8', dims), tensor('u8', [10]), forged]) {
      expect(messageOf(() => run(withArgument(valid, 'packed', bad)))).toContain('gemmPacked: packed: ');
    }
  });

  it('refuses an output that overlaps an input', () => {
    const base = tensor('f32', [40, 40]);
    const a = native.tensorView(base, 0, [20, 20]);
    const shifted = native.tensorView(base, 64, [20, 20]);
    const b = tensor('f32', [20, 20]);
    expect(messageOf(() => native.gemm(a, shifted, b, false, false, 1, 0))).toContain('gemm: c: overlaps a');
    expect(messageOf(() => native.add(a, shifted, b))).toContain('add: out: partly overlaps a');
    native.add(a, a, b);
  });
});

describe('memory', () => {
  it('refuses sizes that are no sizes, and overflow', () => {
    const create = (...args: unknown[]) =>
      messageOf(() => (native.tensorCreate as (...a: unknown[]) => Handle)(...args));
    for (const dims of [[], [1, 1, 1, 1, 1], [-1], [1.5], ['2'], [2 ** 53], 'x', null, { length: 1 }]) {
      expect(create('f32', dims)).toContain('tensorCreate: dims: ');
    }
    expect(create('f32', [2 ** 40, 2 ** 40])).toContain('overflows');
    expect(create('f64', [2])).toContain('tensorCreate: dtype: ');
  });

  it('keeps views and copies inside the base', () => {
    const base = tensor('f32', [10]);
    const view = (...args: unknown[]) =>
      messageOf(() => (native.tensorView as (...a: unknown[]) => Handle)(base, ...args));
    for (const [offset, dims, dtype] of [
      [4, [10]],
      [-4, [1]],
      [0, [11]],
      [44, [0]],
      [2 ** 53 - 1, [1]],
      [2, [1]],
      [1, [1], 'bf16'],
      [0, [2 ** 40, 2 ** 20]],
    ] as const) {
      expect(view(offset, dims, dtype)).toContain('tensorView: ');
    }
    expect(messageOf(() => native.tensorWrite(base, new Float32Array(11)))).toContain('tensorWrite: src: ');
    expect(messageOf(() => native.tensorWrite(base, new Float32Array(1), 40))).toContain(
      'tensorWrite: src: ',
    );
    expect(messageOf(() => native.tensorRead(base, new Float32Array(1), -4))).toContain('tensorRead: dst: ');
    expect(messageOf(() => native.tensorRead(base, [] as never))).toContain('tensorRead: dst: ');
    const detached = new Float32Array(4);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    native.tensorWrite(base, detached);
  });

  it('names an unknown option and leaves the settings alone', () => {
    const before = native.info();
    const configure = (options: unknown) => messageOf(() => native.configure(options as never));
    expect(configure({ thread: 1 })).toContain("unknown option 'thread'");
    expect(configure({ isa: 'sse9' })).toContain('isa: ');
    expect(configure({ threads: 0, isa: 'generic' })).toContain('threads: ');
    expect(configure({ memoryLimitBytes: -1 })).toContain('memoryLimitBytes: ');
    expect(configure(null)).toContain('options: ');
    expect(native.info()).toMatchObject({ isa: before.isa, threads: before.threads });
  });

  it('says why a file cannot be mapped', () => {
    expect(messageOf(() => native.mapFile(join(folder, 'none')))).toContain('No such file');
    expect(messageOf(() => native.mapFile(folder))).toContain('not a regular file');
    const empty = join(folder, 'empty');
    writeFileSync(empty, '');
    expect(native.tensorInfo(native.mapFile(empty))).toEqual({ dtype: 'u8', dims: [0], bytes: 0 });
  });
});

describe('random calls', () => {
  it('survives arguments drawn at random', () => {
    const calls = validCalls('bf16');
    const pool: unknown[] = calls.flatMap((call) => Object.values(call.args));
    pool.push(
      null,
      undefined,
      -1,
      0,
      1e9,
      'x',
      {},
      freed(),
      tensor('f32', [0]),
      tensor('i32', [0, 3]),
      tensor('u8', [7]),
    );
    const draws = seededNumbers(11, 200_000).map((x) => (x + 1) / 2);
    let at = 0;
    const pick = <E>(list: readonly E[]): E => list[Math.floor(draws[at++ % draws.length]! * list.length)]!;
    let refused = 0;
    for (let i = 0; i < 20_000; i++) {
      const call = pick(calls);
      const names = Object.keys(call.args);
      const args = { ...call.args } as Record<string, unknown>;
      for (let n = 0; n < 1 + (i % 3); n++) args[pick(names)] = pick(pool);
      try {
        run({ ...call, args: args as Call['args'] });
      } catch (error) {
        refused++;
        expect((error as Error).message).toContain(`${call.op}: `);
      }
    }
    expect(refused).toBeGreaterThan(10_000);
  });
});
