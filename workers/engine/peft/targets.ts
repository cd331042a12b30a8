/**
 * Which modules an adapter applies to, by PEFT's rules: a list matches exact paths and `.name` suffixes, a string is a
 * regular expression over the whole path, 'all-linear' means every linear of the blocks. Pure string work.
 */
import { type LoraConfig, LoraConfigError, type TargetModules } from './lora-config.ts';

type TargetOptions = Pick<
  LoraConfig,
  'target_modules' | 'exclude_modules' | 'layers_to_transform' | 'layers_pattern'
>;

/**
 * The paths among `modules` that the options target, in their order.
 * @throws LoraConfigError when nothing matches, or when an entry of the list matches no module
 */
export function matchTargets(modules: readonly string[], options: TargetOptions): string[] {
  const { target_modules: targets, exclude_modules: excluded } = options;
  const isTarget = matcher('target_modules', targets);
  const isExcluded = excluded == null ? () => false : matcher('exclude_modules', excluded);
  const inLayers = layerFilter(options);
  if (Array.isArray(targets)) {
    for (const target of targets) {
      const matches = matcher('target_modules', [target]);
      if (!modules.some(matches)) {
        throw new LoraConfigError(
          'target_modules',
          `${JSON.stringify(target)} matches no linear layer of the model`,
        );
      }
    }
  }
  const matched = modules.filter((path) => isTarget(path) && !isExcluded(path) && inLayers(path));
  if (matched.length === 0) {
    throw new LoraConfigError(
      'target_modules',
      `${JSON.stringify(targets)} matches no linear layer of the model`,
    );
  }
  return matched;
}

function matcher(field: string, targets: TargetModules): (path: string) => boolean {
  if (targets === 'all-linear') return () => true;
  if (typeof targets === 'string') {
    const pattern = compile(field, `^(?:${targets})$`);
    return (path) => pattern.test(path);
  }
  return (path) => targets.some((target) => path === target || path.endsWith(`.${target}`));
}

function layerFilter(options: TargetOptions): (path: string) => boolean {
  const { layers_to_transform: layers, layers_pattern: pattern } = options;
  if (layers == null || (Array.isArray(layers) && layers.length === 0)) return () => true;
  const wanted = Array.isArray(layers) ? layers : [layers];
  const names =
    pattern == null || pattern.length === 0 ? ['[^.]*'] : typeof pattern === 'string' ? [pattern] : pattern;
  const numbers = names.map((name) => compile('layers_pattern', `^.*\\.${name}\\.(\\d+)\\.`));
  return (path) => {
    const found = numbers.map((regex) => regex.exec(path)?.[1]).find((digits) => digits !== undefined);
    return found !== undefined && wanted.includes(Number(found));
  };
}

/** The value of the first pattern that matches the end of `path`, else `fallback`. */
export function patternValue(
  patterns: Record<string, number> | undefined,
  path: string,
  fallback: number,
): number {
  for (const [pattern, value] of Object.entries(patterns ?? {})) {
    if (compile('rank_pattern', `^(?:.*\\.)?(?:${pattern})$`).test(path)) return value;
  }
  return fallback;
}

/** Last path components of the modules, sorted and without repeats: PEFT's short way to name them. */
export function shortNames(modules: readonly string[]): string[] {
  return [...new Set(modules.map((path) => path.slice(path.lastIndexOf('.') + 1)))].sort();
}

function compile(field: string, source: string): RegExp {
  try {
    return new RegExp(source);
  } catch {
    throw new LoraConfigError(field, 'is not a valid regular expression');
  }
}
