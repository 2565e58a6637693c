// How long a template takes from nothing to an agent that has its identity: paid once, before the first fork.

import { Template } from '#src/index.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { MEMORY_MIB } from './default-guest.js';
import { addStages } from './stages.js';

export const boot: BenchCase = {
  name: 'boot',
  summary: 'boot of a template: call to agent ready',
  defaultN: 5,
  async measure(run) {
    let kernel = '';
    for (let i = 0; i < run.n; i++) {
      const start = now();
      await using template = await Template.boot({ memoryMiB: MEMORY_MIB });
      run.samples.addMs('boot_ms', msSince(start));
      addStages(run.samples, template.timings());
      kernel = template.agent.kernel;
      run.progress(`${i + 1} of ${run.n}`);
    }
    return { memory_mib: MEMORY_MIB, vcpus: 1, guest_kernel: kernel };
  },
};
