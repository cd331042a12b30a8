/** A schema (or a regular expression in one) that cannot be turned into a grammar. */

export class SchemaRefusal extends Error {
  override name = 'SchemaRefusal';
  /** Where in the schema: property names and keywords from its root. */
  readonly path: readonly (string | number)[];
  /** The keyword at fault. */
  readonly keyword: string;

  /** `why` completes the sentence "'keyword' …". */
  constructor(path: readonly (string | number)[], keyword: string, why: string) {
    const context = path
      .map((part) => (typeof part === 'number' ? String(part) : `'${part.slice(0, 80)}'`))
      .join(', ');
    super(`In context=(${context}), '${keyword.slice(0, 80)}' ${why}`);
    this.path = path;
    this.keyword = keyword;
  }
}

/** A schema that is understood, and that no value fits. */
export class NothingFits extends SchemaRefusal {}
