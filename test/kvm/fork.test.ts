// Forking: every clone is itself, knows the time, and goes on where its parent was.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Snapshot } from 'vmfork';
import {
  askOnce,
  companionSnapshot,
  destroyAll,
  eventually,
  Herd,
  inABusyProgram,
  scale,
  startProgram,
  templateSnapshot,
} from '../helpers/kvm.js';

let base: Snapshot;
let snapshot: Snapshot;

beforeAll(async () => {
  base = await templateSnapshot();
  snapshot = await companionSnapshot(base, 16);
});
afterAll(async () => {
  await snapshot?.destroy();
  await base?.destroy();
});

test('a clone answers, reports its fork stage by stage, and shares its memory', async () => {
  await using clone = await base.fork();
  await clone.ping();
  const stages = clone.timings().map(({ stage }) => stage);
  expect(stages.slice(0, 4)).toEqual(['admit', 'identity', 'fork', 'acknowledge']);
  expect(stages.length).toBeGreaterThan(4);
  for (const { ns } of clone.timings()) expect(ns).toBeGreaterThanOrEqual(0);
  const { residentBytes, sharedBytes, privateBytes } = await clone.memory();
  expect(sharedBytes + privateBytes).toBe(residentBytes);
  expect(privateBytes).toBeGreaterThan(0);
  expect(privateBytes).toBeLessThan(2 * 1024 * 1024);
});

test('the guest shows the identity that the host gave it', async () => {
  await using clone = await snapshot.fork({ hostname: 'one.of-many' });
  const files = [
    '/etc/machine-id',
    '/run/vmfork/boot_id',
    '/run/vmfork/generation',
    '/etc/hostname',
  ];
  const contents = await Promise.all(files.map((path) => clone.readFile(path)));
  expect(contents.map((content) => content.toString().trim())).toEqual([
    clone.identity.machineId,
    clone.identity.bootId,
    clone.identity.generationId,
    'one.of-many',
  ]);
  const { stdout } = await clone.exec([
    'cat',
    '/proc/sys/kernel/hostname',
    '/proc/sys/kernel/random/boot_id',
  ]);
  expect(stdout).toBe(`one.of-many\n${clone.identity.bootId}\n`);
  const hasCid = async () => (await askOnce(clone, 'cid')) === String(clone.identity.cid);
  expect(await eventually(hasCid, 5000)).toBe(true);
});

const many =
  Number(process.env.VMFORK_TEST_CLONES) || scale({ full: 1000, nested: 40, interpreted: 200 });

test(`${many} clones draw distinct random bytes and ids`, async () => {
  const drawn = new Set<string>();
  const ids = new Set<string>();
  for (let done = 0; done < many; done += 20) {
    await using herd = await Herd.of(snapshot, 20);
    for (const bytes of await herd.ask(() => 'random')) {
      expect(bytes).toMatch(/^[0-9a-f]{64}$/);
      drawn.add(bytes);
    }
    for (const { identity, id } of herd.clones) {
      const { generationId, machineId, bootId, hostname, cid } = identity;
      for (const value of [generationId, machineId, bootId, hostname, `cid ${cid}`, `vm ${id}`]) {
        ids.add(value);
      }
    }
  }
  expect(drawn.size).toBe(many);
  expect(ids.size).toBe(6 * many);
});

test('clocks are right after a fork from an hour-old snapshot, many at once', async () => {
  await using old = await snapshot.fork();
  const hourAgo = Math.floor(Date.now() / 1000) - 3600;
  await old.exec(['date', '-s', `@${hourAgo}`]);
  await using aged = await old.snapshot();
  const clones = await aged.fork({ count: 8 });
  try {
    for (const clone of clones) {
      const before = Date.now();
      const guest = Number(BigInt(await askOnce(clone, 'time')) / 1_000_000n);
      expect(guest).toBeGreaterThan(before - 1000);
      expect(guest).toBeLessThan(Date.now() + 1000);
    }
  } finally {
    await destroyAll(clones);
  }
});

test('time since boot goes on from where the snapshot was taken', async () => {
  await using first = await snapshot.fork();
  const atFirst = BigInt(await askOnce(first, 'boottime'));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await using second = await snapshot.fork();
  const atSecond = BigInt(await askOnce(second, 'boottime'));
  const apart = Number(atSecond - atFirst) / 1e9;
  expect(Math.abs(apart)).toBeLessThan(1);
});

test('commands under way in the parent go on in each clone, and in the parent', async () => {
  await using parent = await base.fork();
  await startProgram(parent, 'steady', ['/tmp/rounds', '/tmp/wrong']);
  const rounds = async (vm: typeof parent) => (await vm.readFile('/tmp/rounds')).readBigUInt64LE();
  const atSnapshot = await rounds(parent);
  await using fork = await parent.snapshot();
  for (const vm of [parent, ...(await fork.fork({ count: 3 }))]) {
    const now = await rounds(vm);
    expect(now).toBeGreaterThanOrEqual(atSnapshot);
    expect(await eventually(async () => (await rounds(vm)) > now + 2n, 10_000)).toBe(true);
    if (vm !== parent) await vm.destroy();
  }
});

test('sleeping processes and timers fire in each clone', async () => {
  await using parent = await base.fork();
  const script =
    '(sleep 3; echo slept > /tmp/slept) & (timeout 3 sleep 100; echo alarm > /tmp/alarm) & wait';
  parent.spawn(['sh', '-c', script], { stdin: 'ignore' }).unref();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await using fork = await parent.snapshot();
  const clones = await fork.fork({ count: 3 });
  const fired = (path: string, vm: typeof parent) => () =>
    vm.readFile(path).then(
      () => true,
      () => false,
    );
  for (const clone of clones) {
    expect(await eventually(fired('/tmp/slept', clone), 20_000)).toBe(true);
    expect(await eventually(fired('/tmp/alarm', clone), 20_000)).toBe(true);
  }
  await destroyAll(clones);
});

test('floating-point, SSE and TLS registers of a running process survive forks', async () => {
  await using parent = await base.fork();
  await startProgram(parent, 'steady', ['/tmp/rounds', '/tmp/wrong']);
  let current = await parent.snapshot();
  // Each generation freezes the process at another instruction.
  for (
    let generation = 0;
    generation < scale({ full: 20, nested: 5, interpreted: 8 });
    generation++
  ) {
    await using clone = await current.fork();
    await new Promise((resolve) => setTimeout(resolve, 100));
    await expect(clone.readFile('/tmp/wrong')).rejects.toMatchObject({
      code: 'VMF_GUEST_FILE',
      errno: 2,
    });
    const next = await clone.snapshot();
    await current.destroy();
    current = next;
  }
  await current.destroy();
});

test('a fork of a fork has all of both', async () => {
  await using first = await base.fork();
  await first.writeFile('/tmp/one', '1');
  await using level1 = await first.snapshot();
  await using second = await level1.fork();
  await second.writeFile('/tmp/two', '2');
  await using level2 = await second.snapshot();
  await using third = await level2.fork();
  expect(String(await third.readFile('/tmp/one')) + String(await third.readFile('/tmp/two'))).toBe(
    '12',
  );
  await expect(first.readFile('/tmp/two')).rejects.toMatchObject({ code: 'VMF_GUEST_FILE' });
});

describe('guests with two processors', () => {
  test('fork, with both processors at work', async () => {
    await using two = await templateSnapshot(2);
    expect(two.info.vcpus).toBe(2);
    await using parent = await two.fork();
    await startProgram(parent, 'steady', ['/tmp/rounds', '/tmp/wrong']);
    await using fork = await parent.snapshot();
    const clones = await fork.fork({ count: 2 });
    for (const clone of clones) {
      expect((await clone.exec(['nproc'])).stdout).toBe('2\n');
      const both = await Promise.all(
        ['0', '1'].map((cpu) => clone.exec(['taskset', '-c', cpu, 'sh', '-c', 'echo $((6*7))'])),
      );
      expect(both.map(({ stdout }) => stdout)).toEqual(['42\n', '42\n']);
      await expect(clone.readFile('/tmp/wrong')).rejects.toMatchObject({ errno: 2 });
    }
    await destroyAll(clones);
  });
});

describe('fork() that does not succeed', () => {
  test('is VMF_ABORTED and leaves nothing when its signal fires', async () => {
    const controller = new AbortController();
    const forking = base.fork({ count: 50, signal: controller.signal });
    setImmediate(() => controller.abort());
    await expect(forking).rejects.toMatchObject({ code: 'VMF_ABORTED' });
    await using clone = await base.fork();
    await clone.ping();
  });

  test('is VMF_IDENTITY when the clone does not acknowledge in time', async () => {
    const late = inABusyProgram(() => base.fork({ identityTimeoutMs: 1 }));
    await expect(late).rejects.toMatchObject({ code: 'VMF_IDENTITY' });
  });

  test('is VMF_STATE on a destroyed snapshot, whose clones live on', async () => {
    const own = await templateSnapshot();
    await using clone = await own.fork();
    await own.destroy();
    await own.destroy();
    await expect(own.fork()).rejects.toMatchObject({ code: 'VMF_STATE' });
    expect((await clone.exec(['echo', 'alive'])).stdout).toBe('alive\n');
  });

  test('is VMF_STATE for those that wait when it is destroyed, and leaves the turn to others', async () => {
    const own = await templateSnapshot();
    const forks = Array.from({ length: 8 }, () => own.fork());
    await own.destroy();
    const settled = await Promise.allSettled(forks);
    await destroyAll(settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : [])));
    const reasons = settled.flatMap((one) => (one.status === 'rejected' ? [one.reason.code] : []));
    expect(reasons.length).toBeGreaterThan(0);
    expect(new Set(reasons)).toEqual(new Set(['VMF_STATE']));
    await using clone = await base.fork();
    await clone.ping();
  });

  test('is VMF_OPTIONS for options that do not exist', async () => {
    const misspelt: object = { hostName: 'x' };
    await expect(base.fork(misspelt)).rejects.toMatchObject({
      code: 'VMF_OPTIONS',
      message: expect.stringContaining('did you mean hostname?'),
    });
  });
});
