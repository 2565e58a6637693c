// How much memory this process may still take: what the machine has left, and what each memory cgroup around it allows.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { VmforkError } from '../errors.js';
import { KernelFile } from './kernel-file.js';

const KIB = 1024;
// Version 1 has no word for no limit: it says the most pages that it can count, in bytes (page_counter.h, PAGE_COUNTER_MAX).
const NO_LIMIT_BYTES = 2 ** 62;
// A file that was not there may appear when a controller is turned on.
const LOOK_FOR_ABSENT_EVERY_MS = 10_000;

/** Where the kernel shows it; other folders are for tests. */
export interface MemoryRoots {
  proc: string;
  cgroup: string;
}

const KERNEL: MemoryRoots = { proc: '/proc', cgroup: '/sys/fs/cgroup' };

/** Memory of the machine, or of the narrowest cgroup around this process, bytes. */
export interface MemoryRoom {
  /** What could be taken now without swapping or being killed; caches that give way count as free. */
  availableBytes: number;
  /** What there is at all. */
  totalBytes: number;
}

/**
 * Reads how much is left. A fork waits for that, so the files stay open: opening them anew, and being told that some are not
 * there, takes twenty times as long as reading them.
 */
export class MemoryGauge {
  readonly #cgroupRoot: string;
  readonly #isV1: boolean;
  readonly #meminfo: KernelFile;
  readonly #ownCgroup: KernelFile;
  /** What `#ownCgroup` said when `#cgroups` was made. */
  #place: string | undefined;
  #cgroups: CgroupMemory[] = [];
  #lookedAt = Number.NEGATIVE_INFINITY;

  constructor({ proc, cgroup }: MemoryRoots = KERNEL) {
    this.#isV1 = existsSync(join(cgroup, 'memory'));
    this.#cgroupRoot = this.#isV1 ? join(cgroup, 'memory') : cgroup;
    this.#meminfo = new KernelFile(join(proc, 'meminfo'));
    this.#ownCgroup = new KernelFile(join(proc, 'self/cgroup'));
  }

  /**
   * Some tens of microseconds. Throws `VMF_TOO_MANY_FILES`, and `VMF_SYSTEM` without a /proc: a limit that is there and cannot
   * be read must not count as none.
   */
  read(): MemoryRoom {
    this.#follow(this.#ownCgroup.read() ?? '');
    const rooms = [machineRoom(this.#meminfo), ...this.#cgroups.map((cgroup) => cgroup.room())];
    return {
      availableBytes: Math.max(0, Math.min(...rooms.map(({ availableBytes }) => availableBytes))),
      totalBytes: Math.min(...rooms.map(({ totalBytes }) => totalBytes)),
    };
  }

  /** Looks for files that were not there, now and then: takes longer than reading, so this is for when nobody waits. */
  lookForAbsent(): void {
    const now = performance.now();
    if (now - this.#lookedAt < LOOK_FOR_ABSENT_EVERY_MS) return;
    this.#lookedAt = now;
    for (const cgroup of this.#cgroups) cgroup.lookForAbsent();
  }

  /** Closes the files. Reading again opens them again. */
  close(): void {
    this.#meminfo.close();
    this.#ownCgroup.close();
    this.#leave();
  }

  /** Processes are moved, if seldom. */
  #follow(place: string): void {
    if (place === this.#place) return;
    this.#leave();
    this.#cgroups = this.#folders(place).map((folder) => new CgroupMemory(folder));
    this.#place = place;
    this.#lookedAt = performance.now();
  }

  #leave(): void {
    for (const cgroup of this.#cgroups) cgroup.close();
    this.#cgroups = [];
    this.#place = undefined;
  }

  /** The folders of the memory cgroup of this process and of all around it, outermost first. */
  #folders(place: string): string[] {
    const root = this.#cgroupRoot;
    const pattern = this.#isV1 ? /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m : /^0::(.*)$/m;
    const path = pattern.exec(place)?.[1] ?? '/';
    const parts = path.split('/').filter((part) => part !== '' && part !== '..');
    // In a container the path may be the host's, of which only the innermost part is mounted, as the root.
    return [root, ...parts.map((_, index) => join(root, ...parts.slice(0, index + 1)))];
  }
}

/** MemAvailable: what can be taken without swapping (proc(5)). */
function machineRoom(meminfo: KernelFile): MemoryRoom {
  const text = meminfo.read();
  if (text === null) throw new VmforkError('VMF_SYSTEM', meminfo.path, { operation: 'read' });
  const bytes = (pattern: RegExp) => Number(pattern.exec(text)?.[1] ?? Infinity) * KIB;
  return {
    availableBytes: bytes(/^MemAvailable:\s+(\d+) kB$/m),
    totalBytes: bytes(/^MemTotal:\s+(\d+) kB$/m),
  };
}

/**
 * A cgroup's limit less its charge. Both hierarchies charge the page cache as well, whose inactive part gives way first
 * (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst); above memory.high processes are only slowed, but so
 * much that nobody wants to be there.
 */
class CgroupMemory {
  readonly #limits: KernelFile[];
  readonly #charges: KernelFile[];
  readonly #stat: KernelFile;

  constructor(folder: string) {
    const file = (name: string) => new KernelFile(join(folder, name));
    this.#limits = ['memory.max', 'memory.high', 'memory.limit_in_bytes'].map(file);
    this.#charges = ['memory.current', 'memory.usage_in_bytes'].map(file);
    this.#stat = file('memory.stat');
  }

  room(): MemoryRoom {
    let totalBytes = Infinity;
    for (const limit of this.#limits) totalBytes = Math.min(totalBytes, toBytes(limit.read()));
    if (totalBytes === Infinity) return { availableBytes: Infinity, totalBytes };
    let used = 0;
    for (const charge of this.#charges) used = Math.max(used, Number(charge.read() ?? 0));
    const stat = this.#stat.read() ?? '';
    const inactive =
      /^total_inactive_file (\d+)$/m.exec(stat) ?? /^inactive_file (\d+)$/m.exec(stat);
    const availableBytes = totalBytes - used + Number(inactive?.[1] ?? 0);
    return { availableBytes: Math.min(availableBytes, totalBytes), totalBytes };
  }

  lookForAbsent(): void {
    for (const file of this.#files()) file.lookForAbsent();
  }

  close(): void {
    for (const file of this.#files()) file.close();
  }

  #files(): KernelFile[] {
    return [...this.#limits, ...this.#charges, this.#stat];
  }
}

/** Absent files and `max` are no limit. */
function toBytes(text: string | null): number {
  const bytes = text === null ? Number.NaN : Number(text);
  return Number.isNaN(bytes) || bytes >= NO_LIMIT_BYTES ? Infinity : bytes;
}
