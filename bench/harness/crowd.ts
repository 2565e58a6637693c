// Many clones at once in this process: forked two at a time, before their guests, which start in turns, are in the way.

import { setPriority } from 'node:os';
import { Engine, type Snapshot } from '#src/index.js';
import { BareFork } from './bare-fork.js';

/** Forks under way at the same time. Those that find a shell are done before the next one begins. */
const FORKERS = 2;

/** An engine whose guests leave some of the processors to the forks after them; it makes shells only when it is told to. */
export function crowdEngine(kept: number): Engine {
  raisePriority();
  return new Engine({ shells: { ready: 0, kept }, vcpuNice: 19 });
}

/** A thousand guests outweigh the thread that forks them at any nice value of theirs; this lets it stay ahead of them. */
function raisePriority(): void {
  try {
    setPriority(-20);
  } catch {
    // Without the privilege; reports say which priority it was.
  }
}

/** Forks so many and adds each to `clones` as it comes, also when a later one fails. */
export async function forkCrowd(
  snapshot: Snapshot,
  count: number,
  clones: BareFork[],
): Promise<void> {
  let begun = 0;
  const forker = async () => {
    while (begun++ < count) clones.push(await BareFork.of(snapshot));
  };
  await Promise.all(Array.from({ length: FORKERS }, forker));
}
