// The matcher as grammar tests ask it: whether the grammar of a schema lets a text be the whole answer.
import { beforeAll } from 'vitest';
import { type SchemaOptions, schemaGrammar } from '../../src/inference/grammar/json-schema.ts';
import { loadTokenizer, type Tokenizer } from '../../workers/engine/tokenizer/load.ts';
import {
  createTokenizerInfo,
  loadMatcherLibrary,
  type MatcherLibrary,
} from '../../workers/inference/grammar/matcher-library.ts';

const SHIPPED = `${import.meta.dirname}/../../models/lathe-tiny`;

/** For a test file: registers the hook; library, tokenizer and compiler are in `there` from beforeAll on. */
export function useMatcher() {
  const there = {} as {
    library: MatcherLibrary;
    tokenizer: Tokenizer;
    compiler: Awaited<ReturnType<MatcherLibrary['GrammarCompiler']['createGrammarCompiler']>>;
  };
  beforeAll(async () => {
    there.library = loadMatcherLibrary();
    there.tokenizer = loadTokenizer(SHIPPED);
    there.compiler = await there.library.GrammarCompiler.createGrammarCompiler(
      await createTokenizerInfo(there.library, there.tokenizer),
      false,
    );
  });

  /** Says of texts whether the schema's grammar lets them be the whole answer, token by token as the engine asks. */
  async function accepts(
    schema: unknown,
    options: SchemaOptions = {},
  ): Promise<(text: string) => Promise<boolean>> {
    const { library, tokenizer, compiler } = there;
    const grammar = await compiler.compileGrammar(schemaGrammar(schema, options), 'root');
    const allowed = (mask: Int32Array, token: number) => ((mask[token >> 5]! >>> (token & 31)) & 1) === 1;
    return async (text) => {
      const matcher = await library.GrammarMatcher.createGrammarMatcher(grammar);
      try {
        for (const token of tokenizer.encode(text)) {
          if (!allowed(await matcher.getNextTokenBitmask(), token) || !matcher.acceptToken(token))
            return false;
        }
        return allowed(await matcher.getNextTokenBitmask(), tokenizer.eosIds[0]!);
      } finally {
        matcher.dispose();
      }
    };
  }
  return { there, accepts };
}
