// How an engine is to use the host: memory for clones, and shells made ahead for them.

import type { OnBudget } from '../memshare/budget.js';
import { integer, object, oneOf, type Rules } from '../options.js';

/** Options of `new Engine()`. */
export interface EngineOptions {
  /**
   * Most memory that this engine's clones, and what was frozen of them, may take together, MiB, 1 to 16777216; a clone to
   * come counts as much as others turned out to take. Default, and never more than: what the machine and the memory cgroups
   * around the process have left, less a twentieth.
   */
  memoryBudgetMiB?: number | undefined;
  /** What a fork does that would break the budget: wait its turn, or fail with `VMF_NO_MEMORY`. Default `'refuse'`. */
  onBudget?: OnBudget | undefined;
  /** Shells: machines without memory and state, which make a fork several times faster. */
  shells?: ShellOptions | undefined;
  /**
   * Nice value of the threads that run guests, 0 to 19: by how much they yield to other threads, those of this program
   * included. With many busy guests on few processors, 19 keeps forks and streams quick. Default 0.
   */
  vcpuNice?: number | undefined;
}

/** How many shells an engine has; 0 to 65536. */
export interface ShellOptions {
  /** Made ahead, in the background, for the shape of machine that was forked last. Default 4. */
  ready?: number | undefined;
  /** Kept at most: those made ahead, and those of clones that ended. Default 32; 0 turns them off. */
  kept?: number | undefined;
}

const SHELL_COUNT = integer(0, 65_536);

export const ENGINE_OPTIONS: Rules = {
  memoryBudgetMiB: integer(1, 2 ** 24),
  onBudget: oneOf('wait', 'refuse'),
  vcpuNice: integer(0, 19),
  shells: object('an object of ready and kept, 0 to 65536', isShellOptions),
};

function isShellOptions(value: object): boolean {
  const { ready = 0, kept = 0, ...unknown } = value as ShellOptions;
  return SHELL_COUNT.test(ready) && SHELL_COUNT.test(kept) && Object.keys(unknown).length === 0;
}
