// What a clone costs after a real ping: guest pages of its own, by the kernel's page tables, and kernel memory, as charged
// to this process. With 1, 10 and 100 clones alive; the figure without a suffix is that of 100.

import type { Clone, Snapshot } from '#src/index.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { type KernelMeter, openKernelMeter } from '../harness/kernel-memory.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const GROUPS = [
  { clones: 100, suffix: '' },
  { clones: 10, suffix: '_10' },
  { clones: 1, suffix: '_1' },
] as const;
const KIB = 1024;

export const memory: BenchCase = {
  name: 'memory',
  summary: 'private and kernel memory per clone, with 1, 10 and 100 alive (n = rounds)',
  defaultN: 3,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    const meter = openKernelMeter();
    try {
      await (await snapshot.fork()).destroy();
      for (let round = 0; round < run.n; round++) {
        for (const { clones, suffix } of GROUPS) {
          await measureGroup(run, snapshot, meter, clones, suffix);
          run.progress(`round ${round + 1}: ${clones} clones`);
        }
      }
    } finally {
      meter?.close();
    }
    const kernelMemory = meter ? 'memory cgroup of this process' : 'not measured: no memory cgroup';
    return { ...guestParameters(snapshot), rounds: run.n, kernel_memory: kernelMemory };
  },
};

async function measureGroup(
  run: CaseRun,
  snapshot: Snapshot,
  meter: KernelMeter | null,
  count: number,
  suffix: string,
): Promise<void> {
  const before = meter?.usedKiB() ?? 0;
  const clones = await snapshot.fork({ count });
  try {
    await Promise.all(clones.map((clone) => clone.ping()));
    if (meter) run.samples.add(`kernel_kib${suffix}`, 'KiB', (meter.usedKiB() - before) / count);
    await addPrivate(run, clones, suffix);
  } finally {
    await Promise.all(clones.map((clone) => clone.destroy()));
  }
}

async function addPrivate(run: CaseRun, clones: readonly Clone[], suffix: string): Promise<void> {
  for (const clone of clones) {
    const { privateBytes, sharedBytes } = await clone.memory();
    run.samples.add(`private_kib${suffix}`, 'KiB', privateBytes / KIB);
    run.samples.add(`shared_kib${suffix}`, 'KiB', sharedBytes / KIB);
  }
}
