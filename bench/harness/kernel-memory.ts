// Kernel memory that this process alone is charged with: it joins a memory cgroup of its own while it measures. The
// machine's totals in /proc/meminfo would show every other process, too.

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const V1_ROOT = '/sys/fs/cgroup/memory';
const V2_ROOT = '/sys/fs/cgroup';

/** Reads the kernel memory charged to this process since it was opened. */
export interface KernelMeter {
  usedKiB(): number;
  /** Leaves the cgroup and removes it. */
  close(): void;
}

/** Null where this process may not make a memory cgroup. */
export function openKernelMeter(): KernelMeter | null {
  const v1 = existsSync(join(V1_ROOT, 'memory.kmem.usage_in_bytes'));
  const root = v1 ? V1_ROOT : V2_ROOT;
  const own = join(root, ownPath(v1));
  const folder = join(root, `vmfork-bench-${process.pid}`);
  const close = () => {
    process.off('exit', close);
    enter(own);
    rmdirSync(folder);
  };
  try {
    mkdirSync(folder);
    enter(folder);
  } catch {
    if (existsSync(folder)) rmdirSync(folder);
    return null;
  }
  process.on('exit', close);
  return { usedKiB: v1 ? readV1(folder) : readV2(folder), close };
}

function enter(folder: string): void {
  writeFileSync(join(folder, 'cgroup.procs'), String(process.pid));
}

// Version 1 counts all kernel memory in one file, version 2 names it in memory.stat (cgroup-v2.rst, "kernel").
const readV1 = (folder: string) => () =>
  Number(readFileSync(join(folder, 'memory.kmem.usage_in_bytes'), 'utf8')) / 1024;
const readV2 = (folder: string) => () => {
  const line = /^kernel (\d+)$/m.exec(readFileSync(join(folder, 'memory.stat'), 'utf8'));
  if (!line) throw new Error('memory.stat has no line "kernel"');
  return Number(line[1]) / 1024;
};

/** The path of this process's own cgroup below the root. */
function ownPath(v1: boolean): string {
  const pattern = v1 ? /^\d+:(?:.*,)?memory(?:,.*)?:(.*)$/m : /^0::(.*)$/m;
  return pattern.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/';
}
