// Back to the fork point: the same clone, as if it had just been forked, under a new identity.
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Engine, type Snapshot } from 'vmfork';
import {
  askOnce,
  Companion,
  companionSnapshot,
  footprint,
  inABusyProgram,
  scale,
  templateSnapshot,
} from '../helpers/kvm.js';

const ROUNDS = scale({ full: 64, nested: 4, interpreted: 8 });
let base: Snapshot;
let snapshot: Snapshot;

beforeAll(async () => {
  base = await templateSnapshot();
  snapshot = await companionSnapshot(base, 100);
});
afterAll(async () => {
  await snapshot?.destroy();
  await base?.destroy();
});

test('memory, files and processes are those of the snapshot again', async () => {
  await using clone = await snapshot.fork();
  const filled = await askOnce(clone, 'check 0');
  await askOnce(clone, 'fill 7');
  await clone.writeFile('/tmp/mine', 'gone');
  const { privateBytes } = await clone.memory();
  await clone.reset();
  expect(clone.state).toBe('running');
  expect((await clone.memory()).privateBytes).toBeLessThan(privateBytes);
  expect(await askOnce(clone, 'check 0')).toBe(filled);
  await expect(clone.readFile('/tmp/mine')).rejects.toMatchObject({ code: 'VMF_GUEST_FILE' });
  expect((await clone.exec(['echo', 'alive'])).stdout).toBe('alive\n');
});

test('the identity is new, the place in the tree is the same', async () => {
  await using clone = await snapshot.fork({ hostname: 'first' });
  const before = clone.identity;
  const random = await askOnce(clone, 'random');
  await clone.reset({ hostname: 'second' });
  const { identity } = clone;
  expect(identity.hostname).toBe('second');
  for (const field of ['generationId', 'machineId', 'bootId', 'cid'] as const) {
    expect(identity[field]).not.toBe(before[field]);
  }
  expect((await clone.readFile('/etc/hostname')).toString().trim()).toBe('second');
  expect(await askOnce(clone, 'random')).not.toBe(random);
  const guest = Number(BigInt(await askOnce(clone, 'time')) / 1_000_000n);
  expect(Math.abs(Date.now() - guest)).toBeLessThan(1000);
  expect(clone).toMatchObject({ generation: 2, parent: snapshot });
  expect(snapshot.children).toEqual([clone]);
  const stages = clone.timings().map(({ stage }) => stage);
  expect(stages.slice(0, 3)).toEqual(['identity', 'reset', 'acknowledge']);
});

test('what was under way rejects with VMF_RESET, and the clone lives on', async () => {
  await using clone = await snapshot.fork();
  const states: string[] = [];
  clone.on('state', (to) => states.push(to));
  const socket = await clone.connect(7000);
  const listener = clone.listen(9000);
  const running = clone.exec(['sleep', '1000']);
  const pings = clone.ping();
  const outcomes = Promise.allSettled([running, once(socket, 'data'), once(listener, 'close')]);
  await pings;
  const resetting = clone.reset();
  await expect(clone.ping()).rejects.toMatchObject({ code: 'VMF_STATE' });
  await resetting;
  const [command, stream, closed] = await outcomes;
  expect(command).toMatchObject({ status: 'rejected', reason: { code: 'VMF_RESET' } });
  expect(stream).toMatchObject({ status: 'rejected', reason: { code: 'VMF_RESET' } });
  expect(closed).toMatchObject({ status: 'fulfilled' });
  expect(states).toEqual(['resetting', 'running']);
  clone.listen(9000).close();
  (await Companion.in(clone)).close();
});

test('it needs neither its snapshot nor its siblings, and can be repeated and branched', async () => {
  const own = await companionSnapshot(base, 16);
  await using clone = await own.fork();
  await own.destroy();
  const before = footprint();
  for (let round = 0; round < 10; round++) {
    await askOnce(clone, `fill ${round}`);
    await clone.reset();
  }
  const after = footprint();
  expect(after.files - before.files).toBeLessThanOrEqual(2);
  expect(after.threads - before.threads).toBeLessThanOrEqual(1);
  await using branch = await clone.fork();
  await clone.reset();
  await Promise.all([branch.ping(), clone.ping()]);
});

test('more at once than may start at a time: each comes up in its turn, and knows what time it is', async () => {
  const clones = await snapshot.fork({ count: Math.max(6, 3 * availableParallelism()) });
  try {
    await Promise.all(clones.map((clone) => clone.reset()));
    const late = clones.map(async (clone) => {
      const guest = Number(BigInt(await askOnce(clone, 'time')) / 1_000_000n);
      expect(Math.abs(Date.now() - guest)).toBeLessThan(1000);
    });
    await Promise.all(late);
  } finally {
    await Promise.all(clones.map((clone) => clone.destroy()));
  }
});

test('an end of the guest that was on its way does not end the one that is there now', async () => {
  await using clone = await snapshot.fork();
  // How long the guest has been gone when it is reset: from being about to go to having told everybody.
  for (const goneMs of [0, 10, 100]) {
    const reboot = clone.spawn(['sh', '-c', 'echo on; sleep 0.2; reboot -f'], { stdin: 'ignore' });
    reboot.wait().catch(() => {});
    await once(reboot.stdout, 'data');
    // The event loop stands still from here on: what the engine tells, JavaScript hears after the reset.
    const deadline = performance.now() + 30_000;
    while (!clone.console.tail().includes('reboot: ') && performance.now() < deadline);
    expect(clone.console.tail()).toContain('reboot: ');
    for (const start = performance.now(); performance.now() - start < goneMs; );
    await clone.reset();
    expect((await clone.exec(['echo', 'alive'])).stdout).toBe('alive\n');
  }
  expect(clone.state).toBe('running');
});

test('streams of the console go on with the new guest', async () => {
  await using clone = await snapshot.fork();
  const lines = createInterface(clone.console.stream());
  await clone.reset();
  const line = once(lines, 'line');
  await clone.exec(['sh', '-c', 'echo here again > /dev/console']);
  expect(await line).toEqual(['here again']);
});

test('a clone that does not come back in time is destroyed', async () => {
  const clone = await snapshot.fork();
  const late = inABusyProgram(() => clone.reset({ identityTimeoutMs: 1 }));
  await expect(late).rejects.toMatchObject({ code: 'VMF_IDENTITY' });
  expect(clone.state).toBe('destroyed');
  await expect(clone.reset()).rejects.toMatchObject({ code: 'VMF_GONE' });
});

test('a paused clone is not reset', async () => {
  await using clone = await snapshot.fork();
  await clone.pause();
  await expect(clone.reset()).rejects.toMatchObject({ code: 'VMF_STATE' });
});

/** Lets a reset come some way, which is further each time. */
async function aWhile(ms: number): Promise<void> {
  for (const start = performance.now(); performance.now() - start < ms; ) await nextTurn();
}

const codeOf = (outcome: Promise<unknown>) =>
  outcome.then(
    () => 'done',
    (error) => error.code,
  );

test('destroy() ends a clone at any moment of a reset, and nothing is left', async () => {
  const round = async (ms: number) => {
    const clone = await snapshot.fork();
    const resetting = codeOf(clone.reset());
    await aWhile(ms);
    await clone.destroy();
    expect(['done', 'VMF_GONE', 'VMF_STATE']).toContain(await resetting);
    expect(clone.state).toBe('destroyed');
  };
  await round(0);
  const before = footprint();
  for (let at = 0; at < ROUNDS; at++) await round(at % 8);
  const after = footprint();
  expect(after.files - before.files).toBeLessThanOrEqual(2);
  expect(after.threads - before.threads).toBeLessThanOrEqual(1);
  expect(snapshot.children).toEqual([]);
});

test('an engine can be closed at any moment of resets, with shells and without', async () => {
  const round = async (ms: number, ready: number) => {
    const engine = new Engine({ shells: { ready, kept: ready } });
    await using own = await templateSnapshot(1, engine);
    const clones = await own.fork({ count: 2 });
    const resets = clones.map((clone) => codeOf(clone.reset()));
    await aWhile(ms);
    await engine.close();
    for (const code of await Promise.all(resets)) {
      expect(['done', 'VMF_GONE', 'VMF_STATE']).toContain(code);
    }
    for (const clone of clones) {
      await expect(clone.reset()).rejects.toMatchObject({ code: 'VMF_GONE' });
    }
  };
  await round(0, 1);
  const before = footprint();
  for (let at = 0; at < ROUNDS / 4; at++) await round(at, at % 2);
  const after = footprint();
  expect(after.files - before.files).toBeLessThanOrEqual(2);
  expect(after.threads - before.threads).toBeLessThanOrEqual(1);
});
