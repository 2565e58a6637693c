import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { MemoryGauge, type MemoryRoots } from '#src/memshare/available.js';

const MIB = 1024 * 1024;
let folder: string;
let roots: MemoryRoots;
let gauge: MemoryGauge;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vmfork-room-'));
  roots = { proc: join(folder, 'proc'), cgroup: join(folder, 'cgroup') };
  put('proc/meminfo', 'MemTotal:  1048576 kB\nMemFree: 1 kB\nMemAvailable:   524288 kB\n');
});
afterEach(() => {
  vi.restoreAllMocks();
  gauge?.close();
  rmSync(folder, { recursive: true });
});

function put(path: string, content: string | number): void {
  mkdirSync(join(folder, dirname(path)), { recursive: true });
  writeFileSync(join(folder, path), `${content}\n`);
}

function inMiB(): { available: number; total: number } {
  gauge?.close();
  gauge = new MemoryGauge(roots);
  return nowInMiB();
}

function nowInMiB(): { available: number; total: number } {
  const { availableBytes, totalBytes } = gauge.read();
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

describe('a gauge that stays open', () => {
  beforeEach(() => {
    put('proc/self/cgroup', '0::/a');
    put('cgroup/a/memory.max', 300 * MIB);
    put('cgroup/a/memory.current', 50 * MIB);
    expect(inMiB()).toEqual({ available: 250, total: 300 });
  });

  test('says what is so now', () => {
    put('cgroup/a/memory.max', 200 * MIB);
    put('cgroup/a/memory.current', 60 * MIB);
    expect(nowInMiB()).toEqual({ available: 140, total: 200 });
    put('cgroup/a/memory.max', 'max');
    expect(nowInMiB()).toEqual({ available: 512, total: 1024 });
  });

  test('follows the process into another cgroup', () => {
    put('cgroup/b/memory.high', 100 * MIB);
    put('cgroup/b/memory.current', 10 * MIB);
    put('proc/self/cgroup', '0::/b');
    expect(nowInMiB()).toEqual({ available: 90, total: 100 });
  });

  test('finds a limit that was not there when it was opened', () => {
    put('cgroup/a/memory.high', 100 * MIB);
    gauge.lookForAbsent(); // Too soon: it costs more than a reading.
    expect(nowInMiB().total).toBe(300);
    vi.spyOn(performance, 'now').mockReturnValueOnce(performance.now() + 20_000);
    gauge.lookForAbsent();
    expect(nowInMiB()).toEqual({ available: 50, total: 100 });
  });

  test('reads texts of any length', () => {
    put(
      'proc/meminfo',
      `MemTotal: 2097152 kB\n${'Other: 1 kB\n'.repeat(3000)}MemAvailable: 1024 kB`,
    );
    expect(nowInMiB()).toEqual({ available: 1, total: 300 });
  });

  test('takes a limit that cannot be read for none at no time', () => {
    rmSync(join(folder, 'cgroup/a/memory.max'));
    mkdirSync(join(folder, 'cgroup/a/memory.max'));
    gauge.close();
    const cannotBeRead = expect.objectContaining({ code: 'VMF_SYSTEM', errno: 21 });
    for (let again = 0; again < 2; again++) expect(() => gauge.read()).toThrow(cannotBeRead);
    rmdirSync(join(folder, 'cgroup/a/memory.max'));
    expect(nowInMiB()).toEqual({ available: 512, total: 1024 });
  });

  test('holds no file when it is closed', () => {
    const open = () => readdirSync('/proc/self/fd').length;
    const before = open();
    gauge.close();
    expect(open()).toBeLessThan(before);
    expect(nowInMiB().total).toBe(300);
    expect(open()).toBe(before);
  });
});

test('a real cgroup around this process is heeded', () => {
  const limitBytes = 3 * 1024 * MIB;
  const own = makeCgroup(limitBytes);
  try {
    gauge = new MemoryGauge();
    const { availableBytes, totalBytes } = gauge.read();
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
