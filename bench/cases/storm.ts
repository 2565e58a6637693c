// A thousand clones at once: until the last is forked, and until each has acknowledged its identity and answered a ping; and
// what they cost while all live.

import { BareFork } from '../harness/bare-fork.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { availableKiB } from '../harness/host-memory.js';
import { openKernelMeter } from '../harness/kernel-memory.js';
import { guestParameters, openSnapshot } from './default-guest.js';

export const storm: BenchCase = {
  name: 'storm',
  summary: 'so many clones at once: all forked, all answered, memory of each (n = clones)',
  defaultN: 1000,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    const meter = openKernelMeter();
    const forks: BareFork[] = [];
    try {
      await (await BareFork.of(snapshot)).destroy();
      const [memoryBefore, kernelBefore] = [await availableKiB(), meter?.usedKiB() ?? 0];
      const start = now();
      const forkAndAnswer = async () => {
        const fork = await BareFork.of(snapshot);
        forks.push(fork);
        if (forks.length === run.n) run.samples.addMs('forked_ms', msSince(start));
        await fork.answer();
      };
      await Promise.all(Array.from({ length: run.n }, forkAndAnswer));
      run.samples.addMs('answered_ms', msSince(start));
      run.samples.add('memory_kib', 'KiB', (memoryBefore - (await availableKiB())) / run.n);
      if (meter) run.samples.add('kernel_kib', 'KiB', (meter.usedKiB() - kernelBefore) / run.n);
      const destroyStart = now();
      await Promise.all(forks.splice(0).map((fork) => fork.destroy()));
      run.samples.addMs('destroyed_ms', msSince(destroyStart));
    } finally {
      await Promise.all(forks.map((fork) => fork.destroy()));
      meter?.close();
    }
    return { ...guestParameters(snapshot), clones: run.n };
  },
};
