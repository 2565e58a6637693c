// The fork itself: from the call until the machine's state is restored and its vCPU runs. Every clone that is counted has
// answered a ping afterwards, outside the time: a fork whose guest never ran would be no fork.

import type { BenchCase } from '../harness/case.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';
import { addStages, forkedMs, restoredMs } from './stages.js';

export const fork: BenchCase = {
  name: 'fork',
  summary: 'fork: call to running vCPU, and each stage of it',
  defaultN: 200,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await repeat(run, async (counts) => {
      await using clone = await snapshot.fork();
      await clone.ping();
      if (!counts) return;
      run.samples.addMs('fork_ms', forkedMs(clone.timings()));
      run.samples.addMs('restored_ms', restoredMs(clone.timings()));
      addStages(run.samples, clone.timings());
    });
    return guestParameters(snapshot);
  },
};
