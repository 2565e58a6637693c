// A metric for every stage of a boot or fork, named after the stage.

import type { Timing } from '#src/index.js';
import type { Samples } from '../harness/stats.js';

const NS_PER_MS = 1e6;

export function addStages(samples: Samples, timings: readonly Timing[]): void {
  for (const { stage, ns } of timings) {
    samples.addMs(`stage_${stage.replace(/\W+/g, '_')}_ms`, ns / NS_PER_MS);
  }
}

/** From the call until JavaScript knows that the state is restored and the vCPU's thread runs. */
export function forkedMs(timings: readonly Timing[]): number {
  return sumMs(timings, (stage) => stage === 'admit' || stage === 'identity' || stage === 'fork');
}

/** The work of a fork alone: drawing the identity, and all native stages up to the vCPU's start. */
export function restoredMs(timings: readonly Timing[]): number {
  return sumMs(timings, (stage) => stage === 'identity' || stage.startsWith('fork.'));
}

function sumMs(timings: readonly Timing[], isMeant: (stage: string) => boolean): number {
  const meant = timings.filter(({ stage }) => isMeant(stage));
  if (meant.length < 3) throw new Error('the fork has no timings');
  return meant.reduce((sum, { ns }) => sum + ns, 0) / NS_PER_MS;
}
