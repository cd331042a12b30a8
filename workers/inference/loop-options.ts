/** What an engine loop works with: the runner, the cache, adapters and grammars, and where its events go. Types only. */
import type { ResidentAdapters } from './adapters.ts';
import type { EngineEvent, Vocabulary } from './generation.ts';
import type { GrammarStates } from './grammar/states.ts';
import type { KvBlocks } from './kv-blocks.ts';
import type { Runner } from './model-runner.ts';

export interface EngineLoopOptions<A extends { dispose(): void }> {
  blocks: KvBlocks;
  runner: Runner<A>;
  adapters: ResidentAdapters<A>;
  vocabulary: Vocabulary;
  contextLength: number;
  tokenBudget: number;
  maxRunning: number;
  grammars: GrammarStates;
  /** Takes the events of one step, at once or, where the device works ahead, while the next step runs. */
  deliver: (events: EngineEvent[]) => void;
}
