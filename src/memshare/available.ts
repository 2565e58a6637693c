// How much memory this process may still take: what the machine has left, and what each memory cgroup around it allows.

import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { VmforkError } from '../errors.js';

const KIB = 1024;

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
 * Reads a few small files, some tens of microseconds. Throws `VMF_TOO_MANY_FILES`, and `VMF_SYSTEM` without a /proc: a limit
 * that is there and cannot be read must not count as none.
 */
export function readMemoryRoom(roots: MemoryRoots = KERNEL): MemoryRoom {
  const rooms = [machineRoom(roots), ...cgroupFolders(roots).map(cgroupRoom)];
  return {
    availableBytes: Math.max(0, Math.min(...rooms.map(({ availableBytes }) => availableBytes))),
    totalBytes: Math.min(...rooms.map(({ totalBytes }) => totalBytes)),
  };
}

/** MemAvailable: what can be taken without swapping (proc(5)). */
function machineRoom({ proc }: MemoryRoots): MemoryRoom {
  const path = join(proc, 'meminfo');
  const text = read(path);
  if (text === null) throw new VmforkError('VMF_SYSTEM', path, { operation: 'read' });
  const bytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? Infinity) * KIB;
  return { availableBytes: bytes('MemAvailable'), totalBytes: bytes('MemTotal') };
}

/** The folders of the memory cgroup of this process and of all around it, outermost first. */
function cgroupFolders({ proc, cgroup }: MemoryRoots): string[] {
  const isV1 = existsSync(join(cgroup, 'memory'));
  const root = isV1 ? join(cgroup, 'memory') : cgroup;
  const pattern = isV1 ? /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m : /^0::(.*)$/m;
  const path = pattern.exec(read(join(proc, 'self/cgroup')) ?? '')?.[1] ?? '/';
  const parts = path.split('/').filter((part) => part !== '' && part !== '..');
  // In a container the path may be the host's, of which only the innermost part is mounted, as the root.
  return [root, ...parts.map((_, index) => join(root, ...parts.slice(0, index + 1)))];
}

/**
 * A cgroup's limit less its charge. Both hierarchies charge the page cache as well, whose inactive part gives way first
 * (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst); above memory.high processes are only slowed, but so
 * much that nobody wants to be there.
 */
function cgroupRoom(folder: string): MemoryRoom {
  const limits = ['memory.max', 'memory.high', 'memory.limit_in_bytes'].map((name) =>
    toBytes(read(join(folder, name))),
  );
  const totalBytes = Math.min(...limits);
  if (totalBytes === Infinity) return { availableBytes: Infinity, totalBytes };
  const used = read(join(folder, 'memory.current')) ?? read(join(folder, 'memory.usage_in_bytes'));
  const stat = read(join(folder, 'memory.stat')) ?? '';
  const inactive = /^total_inactive_file (\d+)$/m.exec(stat) ?? /^inactive_file (\d+)$/m.exec(stat);
  const availableBytes = totalBytes - Number(used ?? 0) + Number(inactive?.[1] ?? 0);
  return { availableBytes: Math.min(availableBytes, totalBytes), totalBytes };
}

/** Absent files and `max` are no limit. */
function toBytes(text: string | null): number {
  const bytes = text === null ? Number.NaN : Number(text);
  return Number.isNaN(bytes) ? Infinity : bytes;
}

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // The hierarchy, the controller or the file is not there: no limit from it.
    if (code !== 'EMFILE' && code !== 'ENFILE') return null;
    const context = { operation: 'open', errno: constants.errno[code], cause: error };
    throw new VmforkError('VMF_TOO_MANY_FILES', path, context);
  }
}
