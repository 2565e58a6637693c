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
  const ns = (name: string) => timings.find(({ stage }) => stage === name)?.ns;
  const [identity, fork] = [ns('identity'), ns('fork')];
  if (identity === undefined || fork === undefined) throw new Error('the fork has no timings');
  return (identity + fork) / NS_PER_MS;
}

/**
 * The work of a fork alone: drawing the identity, and all native stages up to the vCPU's start. Without the hand-over to
 * a worker thread and the way back into JavaScript, which compete with the clone itself for the processor.
 */
export function restoredMs(timings: readonly Timing[]): number {
  const own = timings.filter(({ stage }) => stage === 'identity' || stage.startsWith('fork.'));
  return own.reduce((sum, { ns }) => sum + ns, 0) / NS_PER_MS;
}
