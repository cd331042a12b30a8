/**
 * Two ways of doing the same work, timed in turns (A B B A …), so that a machine that slows down slows both. Knows
 * nothing of what is timed: a side is a function that does one block of work and says how long it took.
 */
import { readFileSync } from 'node:fs';
import { median, round } from '../options.ts';

/** One timed block of work: its seconds, and whatever else its side wants to be checked (losses, tokens, norms). */
export interface Block {
  seconds: number;
  [fact: string]: unknown;
}

export interface Side {
  name: string;
  run(): Block | Promise<Block>;
}

/** What interleaved blocks of A and B show; seconds are medians over the blocks, ratios say how much faster A is. */
export interface Comparison {
  pairs: number;
  seconds: Record<string, number>;
  /** Median over the pairs of B's seconds ÷ A's: above 1, A is faster. */
  ratio: number;
  ratio_min: number;
  ratio_max: number;
  /** Largest ÷ smallest seconds of neighbouring blocks of A: a ratio nearer to 1 than this is noise. */
  spread_of_a: number;
  /** Median and largest share of the processors' time that the host gave to others during a block (/proc/stat). */
  steal: number;
  steal_max: number;
  /** Every block in the order in which it ran. */
  blocks: { side: string; seconds: number; steal: number }[];
  /** The last block of each side, with all that it said. */
  last: Record<string, Block>;
}

/** Jiffies since boot: those the host took away, and all. Zeros where there is no /proc/stat. */
function processorTime(): { stolen: number; all: number } {
  let text: string;
  try {
    text = readFileSync('/proc/stat', 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { stolen: 0, all: 0 };
    throw error;
  }
  // user nice system idle iowait irq softirq steal; guest time is part of user already.
  const fields = text.slice(0, text.indexOf('\n')).trim().split(/\s+/).slice(1, 9).map(Number);
  return { stolen: fields[7] ?? 0, all: fields.reduce((sum, value) => sum + value, 0) };
}

/**
 * Runs one warm-up block of each side, then `pairs` pairs of blocks in the order A B B A A B …
 * Throws a RangeError for fewer than 5 pairs (medians of less say nothing on a shared machine) and when a side reports
 * no time.
 */
export async function interleave(a: Side, b: Side, pairs = 5): Promise<Comparison> {
  if (!Number.isInteger(pairs) || pairs < 5) throw new RangeError(`at least 5 pairs, got ${pairs}`);
  const blocks: Comparison['blocks'] = [];
  const last: Record<string, Block> = {};
  const times = new Map<Side, number[]>([
    [a, []],
    [b, []],
  ]);
  const time = async (side: Side) => {
    const before = processorTime();
    const block = await side.run();
    const after = processorTime();
    if (!(block.seconds > 0)) throw new RangeError(`${side.name} says it took ${block.seconds} seconds`);
    last[side.name] = block;
    times.get(side)!.push(block.seconds);
    const all = after.all - before.all;
    const steal = all > 0 ? (after.stolen - before.stolen) / all : 0;
    blocks.push({ side: side.name, seconds: round(block.seconds, 5), steal: round(steal) });
  };
  for (const side of [a, b]) await side.run();
  for (let pair = 0; pair < pairs; pair++) for (const side of pair % 2 ? [b, a] : [a, b]) await time(side);

  const [own, peer] = [times.get(a)!, times.get(b)!];
  const ratios = own.map((seconds, i) => peer[i]! / seconds);
  const neighbours = own.slice(1).map((seconds, i) => Math.max(seconds / own[i]!, own[i]! / seconds));
  const steals = blocks.map((block) => block.steal);
  return {
    pairs,
    seconds: { [a.name]: round(median(own), 5), [b.name]: round(median(peer), 5) },
    ratio: round(median(ratios)),
    ratio_min: round(Math.min(...ratios)),
    ratio_max: round(Math.max(...ratios)),
    spread_of_a: round(Math.max(...neighbours)),
    steal: round(median(steals)),
    steal_max: round(Math.max(...steals)),
    blocks,
    last,
  };
}
