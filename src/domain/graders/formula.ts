/**
 * The formula of a multi grader: numbers, names, + - * / ^, brackets and a fixed list of functions. Parsed by hand into
 * a tree and evaluated from it; nothing of it is ever run as code.
 */

type Node =
  | { kind: 'number'; value: number }
  | { kind: 'name'; name: string }
  | { kind: 'negate'; of: Node }
  | { kind: 'operation'; operator: string; left: Node; right: Node }
  | { kind: 'call'; name: string; arguments: Node[] };

export interface Formula {
  /** Names of graders it uses. */
  readonly names: ReadonlySet<string>;
  /** The value, which may be infinite or NaN; `values` must hold every name. */
  evaluate(values: ReadonlyMap<string, number>): number;
}

/** The text is no formula; the message says where and why. */
export class FormulaError extends Error {
  override name = 'FormulaError';
}

interface Callable {
  arity: [min: number, max: number];
  apply: (...values: number[]) => number;
}

const FUNCTIONS = new Map<string, Callable>(
  Object.entries({
    min: { arity: [1, 64], apply: Math.min },
    max: { arity: [1, 64], apply: Math.max },
    abs: { arity: [1, 1], apply: Math.abs },
    floor: { arity: [1, 1], apply: Math.floor },
    ceil: { arity: [1, 1], apply: Math.ceil },
    exp: { arity: [1, 1], apply: Math.exp },
    sqrt: { arity: [1, 1], apply: Math.sqrt },
    log: { arity: [1, 1], apply: Math.log },
  } satisfies Record<string, Callable>),
);
const TOKEN =
  /\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|[-+*/^(),]))/y;
const DEPTH_MAX = 64;
/** Names that a formula can hold. */
export const FORMULA_NAME = /^[A-Za-z_]\w{0,63}$/;

interface Token {
  text: string;
  at: number;
  kind: 'number' | 'name' | 'symbol' | 'end';
}

/** Reads the formula. Throws FormulaError. */
export function parseFormula(text: string): Formula {
  const parser = new Parser(tokensOf(text));
  const tree = parser.parse();
  return { names: parser.names, evaluate: (values) => evaluateNode(tree, values) };
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  const end = text.trimEnd().length;
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < end) {
    const from = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (!match) {
      const at = from + /^\s*/.exec(text.slice(from))![0].length;
      throw new FormulaError(
        `unexpected '${String.fromCodePoint(text.codePointAt(at)!)}' at character ${at + 1}.`,
      );
    }
    const [, number, name, symbol] = match;
    const kind = number !== undefined ? 'number' : name !== undefined ? 'name' : 'symbol';
    const token = number ?? name ?? symbol ?? '';
    tokens.push({ text: token, at: TOKEN.lastIndex - token.length + 1, kind });
  }
  return [...tokens, { text: 'the end', at: end + 1, kind: 'end' }];
}

/** Precedence, loosest first: + -, * /, sign, ^ (which groups to the right: 2^3^2 is 2^9, -2^2 is -4). */
class Parser {
  readonly names = new Set<string>();
  readonly #tokens: Token[];
  #at = 0;
  #depth = 0;

  constructor(tokens: Token[]) {
    this.#tokens = tokens;
  }

  parse(): Node {
    const tree = this.#sum();
    if (this.#next.kind !== 'end') throw this.#unexpected();
    return tree;
  }

  get #next(): Token {
    return this.#tokens[this.#at]!;
  }

  #take(...symbols: string[]): string | null {
    const { kind, text } = this.#next;
    if (kind !== 'symbol' || !symbols.includes(text)) return null;
    this.#at += 1;
    return text;
  }

  #unexpected(): FormulaError {
    const { text, at, kind } = this.#next;
    return new FormulaError(`unexpected ${kind === 'end' ? text : `'${text}'`} at character ${at}.`);
  }

  #sum(): Node {
    this.#depth += 1;
    if (this.#depth > DEPTH_MAX) throw new FormulaError(`more than ${DEPTH_MAX} levels of brackets.`);
    let left = this.#product();
    for (let operator = this.#take('+', '-'); operator; operator = this.#take('+', '-'))
      left = { kind: 'operation', operator, left, right: this.#product() };
    this.#depth -= 1;
    return left;
  }

  #product(): Node {
    let left = this.#signed();
    for (let operator = this.#take('*', '/'); operator; operator = this.#take('*', '/'))
      left = { kind: 'operation', operator, left, right: this.#signed() };
    return left;
  }

  #signed(): Node {
    let negative = false;
    for (let sign = this.#take('+', '-'); sign; sign = this.#take('+', '-'))
      if (sign === '-') negative = !negative;
    const of = this.#power();
    return negative ? { kind: 'negate', of } : of;
  }

  #power(): Node {
    const left = this.#atom();
    if (!this.#take('^', '**')) return left;
    this.#depth += 1;
    if (this.#depth > DEPTH_MAX) throw new FormulaError(`more than ${DEPTH_MAX} powers of powers.`);
    const right = this.#signed();
    this.#depth -= 1;
    return { kind: 'operation', operator: '^', left, right };
  }

  #atom(): Node {
    const token = this.#next;
    if (token.kind === 'number') {
      this.#at += 1;
      return { kind: 'number', value: Number(token.text) };
    }
    if (token.kind === 'name') {
      this.#at += 1;
      if (this.#take('(')) return this.#call(token);
      this.names.add(token.text);
      return { kind: 'name', name: token.text };
    }
    if (!this.#take('(')) throw this.#unexpected();
    const inner = this.#sum();
    if (!this.#take(')')) throw this.#unexpected();
    return inner;
  }

  #call(token: Token): Node {
    const known = FUNCTIONS.get(token.text);
    if (!known) throw new FormulaError(`there is no function '${token.text}' (character ${token.at}).`);
    const values = [this.#sum()];
    while (this.#take(',')) values.push(this.#sum());
    if (!this.#take(')')) throw this.#unexpected();
    const [min, max] = known.arity;
    if (values.length < min || values.length > max)
      throw new FormulaError(
        `'${token.text}' takes ${max === 1 ? 'one value' : `up to ${max} values`}, not ${values.length}.`,
      );
    return { kind: 'call', name: token.text, arguments: values };
  }
}

function evaluateNode(node: Node, values: ReadonlyMap<string, number>): number {
  switch (node.kind) {
    case 'number':
      return node.value;
    case 'name':
      return values.get(node.name) ?? Number.NaN;
    case 'negate':
      return -evaluateNode(node.of, values);
    case 'call':
      return FUNCTIONS.get(node.name)!.apply(...node.arguments.map((each) => evaluateNode(each, values)));
    case 'operation':
      return operate(node.operator, evaluateNode(node.left, values), evaluateNode(node.right, values));
  }
}

function operate(operator: string, left: number, right: number): number {
  if (operator === '+') return left + right;
  if (operator === '-') return left - right;
  if (operator === '*') return left * right;
  return operator === '/' ? left / right : left ** right;
}
