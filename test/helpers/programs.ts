/**
 * Programs of ours that tests start as processes: with the flags the launcher gives them, in an environment that leads
 * to nobody's real service.
 */
import { nodeFlags } from '../../src/commands/child.ts';

/** In front of the program's path. Without them every start parses the packages' manifests for half a second. */
export const PROGRAM_FLAGS = nodeFlags({ endWithParent: false });

/** What a program needs of this process' environment, and nothing that is a setting of ours. */
export function plainEnvironment(): Record<string, string> {
  const kept = ['PATH', 'HOME', 'TMPDIR', 'NODE_COMPILE_CACHE'];
  return Object.fromEntries(kept.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])));
}
