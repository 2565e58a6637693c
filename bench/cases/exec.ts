// A command in a clone: call to exit code of a static `true`. The first one of a clone writes to memory that was shared
// until then; the second one finds it in place.

import type { Clone } from '#src/index.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';

const COMMAND = '/usr/bin/true';

export const exec: BenchCase = {
  name: 'exec',
  summary: 'a static `true` in a fresh clone: call to exit code',
  defaultN: 50,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await repeat(run, async (counts) => {
      const start = now();
      await using clone = await snapshot.fork();
      const first = await execMs(clone);
      const total = msSince(start);
      const second = await execMs(clone);
      if (!counts) return;
      run.samples.addMs('exec_ms', first);
      run.samples.addMs('exec_again_ms', second);
      run.samples.addMs('fork_exec_ms', total);
    });
    return { ...guestParameters(snapshot), command: COMMAND };
  },
};

async function execMs(clone: Clone): Promise<number> {
  const start = now();
  const { exitCode } = await clone.exec([COMMAND]);
  if (exitCode !== 0) throw new Error(`${COMMAND} exited with ${exitCode}`);
  return msSince(start);
}
