// What the machine as a whole has left: the difference before and after is all that something costs, in whatever account
// the kernel keeps it. Other processes count as well, so it is for large amounts on a quiet machine.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

// The kernel's counters are kept per processor and summed up now and then; memory freed by RCU takes as long.
const SETTLE_MS = 1000;

/** MemAvailable (proc(5)) once things have come to rest, KiB. */
export async function availableKiB(): Promise<number> {
  await sleep(SETTLE_MS);
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'));
  if (!line) throw new Error('/proc/meminfo has no MemAvailable');
  return Number(line[1]);
}
