import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type MemoryRoots, readMemoryRoom } from '#src/memshare/available.js';

const MIB = 1024 * 1024;
let folder: string;
let roots: MemoryRoots;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vmfork-room-'));
  roots = { proc: join(folder, 'proc'), cgroup: join(folder, 'cgroup') };
  put('proc/meminfo', 'MemTotal:  1048576 kB\nMemFree: 1 kB\nMemAvailable:   524288 kB\n');
});
afterEach(() => rmSync(folder, { recursive: true }));

function put(path: string, content: string | number): void {
  mkdirSync(join(folder, dirname(path)), { recursive: true });
  writeFileSync(join(folder, path), `${content}\n`);
}

function inMiB(): { available: number; total: number } {
  const { availableBytes, totalBytes } = readMemoryRoom(roots);
  return { available: availableBytes / MIB, total: totalBytes / MIB };
}

test('without cgroups it is what the machine has', () => {
  expect(inMiB()).toEqual({ available: 512, total: 1024 });
});

describe('in a hierarchy of version 2', () => {
  beforeEach(() => put('proc/self/cgroup', '0::/outer/inner'));

  test('the narrowest limit decides, be it max or high', () => {
    put('cgroup/outer/memory.max', 300 * MIB);
    put('cgroup/outer/memory.current', 50 * MIB);
    put('cgroup/outer/inner/memory.max', 'max');
    put('cgroup/outer/inner/memory.high', 200 * MIB);
    put('cgroup/outer/inner/memory.current', 20 * MIB);
    expect(inMiB()).toEqual({ available: 180, total: 200 });
  });

  test('page cache that gives way counts as free', () => {
    put('cgroup/outer/memory.max', 300 * MIB);
    put('cgroup/outer/memory.current', 290 * MIB);
    put('cgroup/outer/memory.stat', `anon 5\ninactive_file ${100 * MIB}\nactive_file 7`);
    expect(inMiB()).toEqual({ available: 110, total: 300 });
  });

  test('a cgroup over its limit has nothing left', () => {
    put('cgroup/outer/memory.high', 100 * MIB);
    put('cgroup/outer/memory.current', 130 * MIB);
    expect(inMiB().available).toBe(0);
  });
});

test('version 1 is found among other controllers, its total counters count', () => {
  put('proc/self/cgroup', '5:cpu,cpuacct:/x\n4:hugetlb,memory:/a\n0::/');
  put('cgroup/memory/memory.limit_in_bytes', '9223372036854771712');
  put('cgroup/memory/a/memory.limit_in_bytes', 100 * MIB);
  put('cgroup/memory/a/memory.usage_in_bytes', 60 * MIB);
  put('cgroup/memory/a/memory.stat', `inactive_file 0\ntotal_inactive_file ${10 * MIB}`);
  expect(inMiB()).toEqual({ available: 50, total: 100 });
});

test('a path of the host, of which a container sees the innermost part as the root', () => {
  put('proc/self/cgroup', '0::/../host.slice/unit');
  put('cgroup/memory.max', 64 * MIB);
  put('cgroup/memory.current', MIB);
  expect(inMiB()).toEqual({ available: 63, total: 64 });
});

test('a real cgroup around this process is heeded', () => {
  const limitBytes = 3 * 1024 * MIB;
  const own = makeCgroup(limitBytes);
  try {
    const { availableBytes, totalBytes } = readMemoryRoom();
    if (own) expect(totalBytes).toBe(limitBytes);
    expect(availableBytes).toBeGreaterThan(0);
    expect(availableBytes).toBeLessThanOrEqual(totalBytes);
  } finally {
    own?.leave();
  }
});

/** Moves this process into a cgroup with a limit; null where it may not. */
function makeCgroup(limitBytes: number): { leave(): void } | null {
  const isV1 = existsSync('/sys/fs/cgroup/memory');
  const root = isV1 ? '/sys/fs/cgroup/memory' : '/sys/fs/cgroup';
  const pattern = isV1 ? /^\d+:(?:.*,)?memory(?:,.*)?:(.*)$/m : /^0::(.*)$/m;
  const before = join(root, pattern.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/');
  const cgroup = join(root, `vmfork-test-${process.pid}`);
  const enter = (path: string) => writeFileSync(join(path, 'cgroup.procs'), String(process.pid));
  try {
    mkdirSync(cgroup);
    writeFileSync(join(cgroup, isV1 ? 'memory.limit_in_bytes' : 'memory.max'), String(limitBytes));
    enter(cgroup);
  } catch {
    if (existsSync(cgroup)) rmdirSync(cgroup);
    return null;
  }
  return {
    leave: () => {
      enter(before);
      rmdirSync(cgroup);
    },
  };
}
