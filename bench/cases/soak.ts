// A hundred thousand forks leave the process as it was. Most are destroyed as soon as their vCPU runs; in between, and before
// and after, clones are used as a program would: answered, commanded, branched.

import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Snapshot } from '#src/index.js';
import { BareFork, forkAndDestroy } from '../harness/bare-fork.js';
import type { BenchCase } from '../harness/case.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const ROUNDS = 20;
const USED_EACH_ROUND = 10;
// What the first forks leave behind is kept for the next ones: threads' stacks, caches, and gaps in the C library's heap, which
// has as many as this mixture of uses makes after so many: 4.0 MiB after 20,000, 5.7 after 120,000, the same after 400,000.
const WARM_UP_FORKS = 120_000;
const SETTLE_MS = 1000;
/** The default of Engine's `shells.kept`. */
const KEPT_SHELLS = 32;
const LEAST_GUEST_KIB = 32 * 1024;
const MIB = 2 ** 20;
// proc(5): smaps has these lines for each mapping.
const MAPPING = /^(?=[0-9a-f]+-[0-9a-f]+ )/m;
const ANONYMOUS = / 00000000 00:00 0 *\n/;
const KEPT_FROM_CHILDREN = /^VmFlags:.* dc(?: |$)/m;

interface Footprint {
  fds: number;
  threads: number;
  mappings: number;
  rssBytes: number;
}

export const soak: BenchCase = {
  name: 'soak',
  summary: 'what so many forks leave behind (n = forks)',
  defaultN: 100_000,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await forkMany(snapshot, WARM_UP_FORKS, (forks) => run.progress(`warming up: ${forks} forks`));
    const before = await footprint(snapshot);
    const footprints = [before];
    const forks = await forkMany(snapshot, run.n, async (done) => {
      footprints.push(await footprint(snapshot));
      run.progress(`${done} forks`);
    });
    const after = footprints.at(-1) ?? before;
    const rssBytes = footprints.map((one) => one.rssBytes);
    for (const bytes of rssBytes) run.samples.add('rss_mib', 'MiB', bytes / MIB);
    run.samples.add('leaked_fds', 'count', after.fds - before.fds);
    run.samples.add('leaked_threads', 'count', after.threads - before.threads);
    run.samples.add('leaked_mappings', 'count', after.mappings - before.mappings);
    run.samples.add('rss_drift_percent', '%', (100 * growth(rssBytes)) / before.rssBytes);
    return { ...guestParameters(snapshot), forks };
  },
};

/**
 * From the first to the last of values taken at equal distances, by the least of the first third and of the last. What V8 has not
 * found dead yet adds to single values and takes from none; what leaks adds to all that follow.
 */
function growth(values: readonly number[]): number {
  const third = Math.ceil(values.length / 3);
  const rise = Math.min(...values.slice(-third)) - Math.min(...values.slice(0, third));
  return (rise * (values.length - 1)) / (values.length - third);
}

async function forkMany(
  snapshot: Snapshot,
  count: number,
  onRound: (forks: number) => void | Promise<void>,
): Promise<number> {
  let forks = 0;
  for (let round = 0; round < ROUNDS; round++) {
    await use(snapshot);
    forks += await forkAndDestroy(snapshot, (begun) => begun < count / ROUNDS);
    // What dead clones hold natively is freed when V8 finds them dead, which it does the less often the more memory it has
    // got used to: the C library's heap would grow with that.
    collectGarbage();
    await onRound(forks);
  }
  return forks;
}

async function use(snapshot: Snapshot): Promise<void> {
  const clones = await snapshot.fork({ count: USED_EACH_ROUND });
  await Promise.all(clones.map((clone) => clone.ping()));
  const [first] = clones;
  await first?.exec(['/usr/bin/true']);
  const branch = await first?.fork();
  await Promise.all(clones.map((clone) => clone.destroy()));
  await branch?.destroy();
}

/** As many wait afterwards each time, and with the same: memory in view, mappings, sockets, a thread. */
async function useAllShells(snapshot: Snapshot): Promise<void> {
  const forks = Array.from({ length: KEPT_SHELLS }, () => BareFork.of(snapshot));
  await Promise.all((await Promise.all(forks)).map((fork) => fork.destroy()));
}

async function footprint(snapshot: Snapshot): Promise<Footprint> {
  await useAllShells(snapshot);
  await sleep(SETTLE_MS);
  collectGarbage();
  const smaps = readFileSync('/proc/self/smaps', 'utf8').split(MAPPING).filter(Boolean);
  return {
    fds: readdirSync('/proc/self/fd').length,
    threads: countThreads(),
    mappings: smaps.filter((mapping) => !isOthers(mapping)).length,
    rssBytes: ownBytes(smaps) - freeHeapBytes(),
  };
}

/** Without KVM's own: a machine has one from when it first runs, and not every shell that waits has run. */
function countThreads(): number {
  const names = readdirSync('/proc/self/task').map((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, 'utf8');
    } catch {
      return 'kvm-'; // It has ended.
    }
  });
  return names.filter((name) => !name.startsWith('kvm-')).length;
}

/**
 * Memory without that of guests. Of the shells that wait, some show the next guest's pages, all of which they share, and others
 * do not: of 32, between 3 and 6 a moment after all were used.
 */
function ownBytes(smaps: readonly string[]): number {
  const isGuests = (mapping: string) => KEPT_FROM_CHILDREN.test(mapping) && !isV8(mapping);
  const kib = smaps
    .filter((mapping) => !isGuests(mapping))
    .map((mapping) => sizeKiB(mapping, 'Rss'));
  return kib.reduce((sum, one) => sum + one, 0) * 1024;
}

/**
 * V8 and the C library map anonymous memory as they like. Guests' processors and stacks have other kinds or owners; guests'
 * memory, parts of which are anonymous as well, is kept out of children. So is V8's heap.
 */
function isOthers(mapping: string): boolean {
  if (!ANONYMOUS.test(mapping)) return false;
  return KEPT_FROM_CHILDREN.test(mapping) ? isV8(mapping) : / rw-p /.test(mapping);
}

/** Pages of 256 KiB, which the kernel shows as one where they meet; one of code has a header, and guards before and after. */
function isV8(mapping: string): boolean {
  const kib = sizeKiB(mapping, 'Size');
  const isPages = (kib % 256 === 0 && kib < LEAST_GUEST_KIB) || [4, 8, 240].includes(kib);
  return isPages && ANONYMOUS.test(mapping);
}

const sizeKiB = (mapping: string, field: string) =>
  Number(new RegExp(`^${field}: +(\\d+) kB$`, 'm').exec(mapping)?.[1]);

/** What V8 holds for objects to come: more as a program makes many, up to 48 MiB by default. */
function freeHeapBytes(): number {
  const { total_physical_size, used_heap_size } = getHeapStatistics();
  return total_physical_size - used_heap_size;
}

/** Else what is measured is how much of its heap V8 has not looked at yet. */
function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  if (typeof collect !== 'function') throw new Error('V8 does not give its garbage collector');
  collect();
  collect();
}
