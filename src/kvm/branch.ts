// A branch: a clone of a VM that runs.

import { checkOptions, FORK_OPTIONS, type ForkOptions, type SnapshotOptions } from '../options.js';
import type { Clone } from './clone.js';
import type { Snapshot } from './snapshot.js';

/** A VM that can be frozen. */
interface Source {
  snapshot(options: SnapshotOptions): Promise<Snapshot>;
}

/** Freezes a VM, forks what was frozen, and lets go of it: the clones keep their share. */
export async function branch(vm: Source, options: ForkOptions): Promise<Clone | Clone[]> {
  checkOptions('fork', FORK_OPTIONS, options);
  const { signal, onBudget, budgetTimeoutMs } = options;
  await using snapshot = await vm.snapshot({ signal, onBudget, budgetTimeoutMs });
  return await snapshot.fork(options);
}
