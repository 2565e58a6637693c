// A metric for every stage of a boot or fork, named after the stage.

import type { Timing } from '#src/index.js';
import { sumMs } from '#src/kvm/stage-clock.js';
import type { Samples } from '../harness/stats.js';

const NS_PER_MS = 1e6;

export function addStages(samples: Samples, timings: readonly Timing[]): void {
  for (const { stage, ns } of timings) {
    samples.addMs(`stage_${stage.replace(/\W+/g, '_')}_ms`, ns / NS_PER_MS);
  }
}

/** The work of a fork alone: drawing the identity, and all native stages up to the vCPU's start. */
export function restoredMs(timings: readonly Timing[]): number {
  return sumMs(timings, (stage) => stage === 'identity' || stage.startsWith('fork.'));
}
