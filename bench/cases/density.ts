// What a clone costs in all, by the memory that the machine has left: idle after a ping, and after each has run a command.
// The clones live in several processes, whose own memory counts for itself.

import type { BenchCase } from '../harness/case.js';
import { CrowdProcess } from '../harness/crowd-process.js';
import { availableKiB } from '../harness/host-memory.js';
import { guestParameters, MEMORY_MIB, openSnapshot } from './default-guest.js';

const WORK = ['/usr/bin/true'];
const CLONES_PER_PROCESS = 100;

export const density: BenchCase = {
  name: 'density',
  summary: `memory per clone by MemAvailable, idle and after a command, at most ${CLONES_PER_PROCESS} in a process (n = clones)`,
  defaultN: 1000,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    const usedSince = async (before: number) => (before - (await availableKiB())) / run.n;
    const atFirst = await availableKiB();
    const processes = sharesOf(run.n).map((count) => new CrowdProcess(MEMORY_MIB, count, WORK));
    const all = (step: (one: CrowdProcess) => Promise<void>) => Promise.all(processes.map(step));
    try {
      await all((one) => one.ready());
      run.samples.add('process_kib', 'KiB', await usedSince(atFirst));
      const before = await availableKiB();
      await all((one) => one.tell('prepare'));
      run.progress('shells made, now the clones');
      await all((one) => one.tell('fork'));
      await all((one) => one.tell('ping'));
      run.samples.add('idle_kib', 'KiB', await usedSince(before));
      run.progress('idle measured, now a command in each');
      await all((one) => one.tell('work'));
      run.samples.add('worked_kib', 'KiB', await usedSince(before));
      await all((one) => one.tell('destroy'));
    } finally {
      await all((one) => one.end());
    }
    return {
      ...guestParameters(snapshot),
      clones: run.n,
      processes: processes.length,
      work: WORK.join(' '),
    };
  },
};

/** How many clones each process has. */
function sharesOf(clones: number): number[] {
  const processes = Math.ceil(clones / CLONES_PER_PROCESS);
  const share = (index: number) => Math.floor(((index + 1) * clones) / processes);
  return Array.from({ length: processes }, (_, index) => share(index) - share(index - 1));
}
