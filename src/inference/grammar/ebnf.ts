/** Grammars as text, in the EBNF that the inference worker's matcher reads. */
import type { Node, Rules } from './nodes.ts';
import { ASCII_LAST, complement, type Ranges } from './ranges.ts';

/** The grammar whose start is `root`. */
export function toEbnf(rules: Rules, root: Node): string {
  const lines = [`root ::= ${write(root)}`];
  for (const [name, node] of rules.entries()) lines.push(`${name} ::= ${write(node)}`);
  return lines.join('\n');
}

function write(node: Node): string {
  switch (node.kind) {
    case 'text':
      return writeText(node.text);
    case 'chars':
      return node.wide
        ? `[^${writeRanges(complement(node.ranges, ASCII_LAST))}]`
        : `[${writeRanges(node.ranges)}]`;
    case 'sequence':
      return `(${node.items.map(write).join(' ')})`;
    case 'choice':
      return `(${node.options.map(write).join(' | ')})`;
    case 'repeat':
      // A class repeats without parentheses: the matcher has a fast path for that.
      return (
        (node.item.kind === 'chars' ? write(node.item) : `(${write(node.item)})`) +
        writeTimes(node.min, node.max)
      );
    case 'rule':
      return node.name;
  }
}

const writeRanges = (ranges: Ranges): string =>
  ranges.map(([low, high]) => (low === high ? code(low) : `${code(low)}-${code(high)}`)).join('');

function writeTimes(min: number, max: number | null): string {
  if (max === null) return min === 0 ? '*' : min === 1 ? '+' : `{${min},}`;
  return min === 0 && max === 1 ? '?' : `{${min},${max}}`;
}

/** Everything but plain letters, digits and spaces goes by its number, so nothing in a schema can leave its quotes. */
function writeText(value: string): string {
  let out = '';
  for (const character of value) {
    out += /[A-Za-z0-9 _:,.{}<>/=-]/.test(character) ? character : code(character.codePointAt(0)!);
  }
  return `"${out}"`;
}

function code(point: number): string {
  return point > 0xffff
    ? `\\U${point.toString(16).padStart(8, '0')}`
    : `\\u${point.toString(16).padStart(4, '0')}`;
}
