// The guest of every case: the default one with 128 MiB, one vCPU, from the template cache.

import { type Engine, Snapshot } from '#src/index.js';
import type { CaseRun, Parameters } from '../harness/case.js';

export const MEMORY_MIB = 128;

/** Rounds that are thrown away: code, page cache and the guest's shared pages are warm afterwards. */
const WARM_UP_ROUNDS = 3;

/** Opens the cached template, booting it first when there is none. */
export async function openSnapshot(run: CaseRun, engine?: Engine): Promise<Snapshot> {
  run.progress('template: loading, or booting it when none is cached');
  return Snapshot.cached({ memoryMiB: MEMORY_MIB, engine });
}

/** What the numbers of a case over this guest depend on. */
export function guestParameters(snapshot: Snapshot): Parameters {
  const { guest, agent } = snapshot.metadata;
  return {
    memory_mib: MEMORY_MIB,
    vcpus: 1,
    guest,
    guest_kernel: agent.kernel,
    agent: agent.build,
    warm_up_rounds: WARM_UP_ROUNDS,
  };
}

/** Runs `round` for every sample, after the rounds that do not count. */
export async function repeat(
  run: CaseRun,
  round: (counts: boolean) => Promise<void>,
): Promise<void> {
  for (let i = 0; i < WARM_UP_ROUNDS; i++) await round(false);
  for (let i = 0; i < run.n; i++) {
    await round(true);
    if ((i + 1) % 10 === 0) run.progress(`${i + 1} of ${run.n}`);
  }
}
