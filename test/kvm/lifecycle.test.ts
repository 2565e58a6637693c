// States, the end of a machine, and what hangs on it.
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Engine, type Snapshot, type VmforkError, type VmState } from 'vmfork';
import { askOnce, companionSnapshot, templateSnapshot } from '../helpers/kvm.js';

let snapshot: Snapshot;

beforeAll(async () => {
  snapshot = await templateSnapshot();
});
afterAll(() => snapshot?.destroy());

describe('pause and resume', () => {
  test('the guest stands still in between', async () => {
    await using base = await companionSnapshot(snapshot, 1);
    await using clone = await base.fork();
    const states: VmState[] = [];
    clone.on('state', (to) => states.push(to));
    const before = BigInt(await askOnce(clone, 'boottime'));
    const pending = clone.ping({ timeoutMs: 60_000 });
    await pending;
    await clone.pause();
    await expect(clone.ping()).rejects.toMatchObject({ code: 'VMF_STATE' });
    await expect(clone.snapshot()).rejects.toMatchObject({ code: 'VMF_STATE' });
    await expect(clone.pause()).rejects.toMatchObject({ code: 'VMF_STATE' });
    expect((await clone.memory()).residentBytes).toBeGreaterThan(0);
    await clone.resume();
    await expect(clone.resume()).rejects.toMatchObject({ code: 'VMF_STATE' });
    expect(BigInt(await askOnce(clone, 'boottime'))).toBeGreaterThan(before);
    expect(states).toEqual(['pausing', 'paused', 'resuming', 'running']);
  });

  test('what was sent before a pause is answered after it', async () => {
    await using clone = await snapshot.fork();
    const running = clone.exec(['sh', '-c', 'sleep 1; echo done']);
    await clone.pause();
    await clone.resume();
    await expect(running).resolves.toMatchObject({ stdout: 'done\n' });
  });
});

describe('the end', () => {
  test('destroy() rejects everything that waits, once and for all', async () => {
    const clone = await snapshot.fork();
    const sleeping = clone.exec(['sleep', '100']);
    const command = clone.spawn(['cat']);
    await command.pid;
    const reading = text(command.stdout);
    const listener = clone.listen(7300);
    const exit = once(clone, 'exit');
    const console = clone.console.stream();
    const waiting = [clone.ping(), sleeping, command.exited, clone.readFile('/dev/zero'), reading];
    const settled = Promise.allSettled(waiting);
    await Promise.all([clone.destroy(), clone.destroy()]);
    for (const one of (await settled).slice(1)) {
      expect(one).toMatchObject({ status: 'rejected', reason: { code: 'VMF_GONE' } });
    }
    const [reason] = (await exit) as [VmforkError];
    expect(reason).toMatchObject({ code: 'VMF_GONE' });
    expect(await text(console)).toBeTypeOf('string');
    expect(clone.state).toBe('destroyed');
    await expect(clone.exec(['true'])).rejects.toMatchObject({ code: 'VMF_GONE' });
    await expect(clone.memory()).rejects.toMatchObject({ code: 'VMF_GONE' });
    expect(() => clone.listen(1)).toThrow(expect.objectContaining({ code: 'VMF_GONE' }));
    listener.close();
    await clone.destroy();
  });

  test('a guest that reboots ends with VMF_GUEST_RESET behind VMF_GONE', async () => {
    await using clone = await snapshot.fork();
    const exit = once(clone, 'exit');
    const sleeping = clone.exec(['sleep', '100']);
    sleeping.catch(() => {});
    clone.spawn(['reboot', '-f'], { stdin: 'ignore' });
    const [reason] = (await exit) as [VmforkError];
    expect(reason).toMatchObject({
      code: 'VMF_GONE',
      cause: { code: 'VMF_GUEST_RESET' },
      consoleTail: expect.any(String),
    });
    await expect(sleeping)
      .rejects.toBe(reason)
      .catch(() => {});
    await expect(sleeping).rejects.toMatchObject({ code: 'VMF_GONE' });
    expect(clone.state).toBe('ended');
    await expect(clone.ping()).rejects.toMatchObject({ code: 'VMF_GONE' });
  });

  test('an agent that dies takes the machine with it: its kernel panics', async () => {
    await using clone = await snapshot.fork();
    const exit = once(clone, 'exit');
    // PID 1 is deaf to signals, but not to losing the code that it runs.
    const script = `grep -m 1 r-xp /proc/1/maps | { IFS='- ' read first last rest
      dd if=/dev/zero of=/proc/1/mem bs=4096 conv=notrunc seek=$((0x$first / 4096)) count=$(((0x$last - 0x$first) / 4096)); }`;
    clone.spawn(['sh', '-c', script], { stdin: 'ignore' });
    const [reason] = (await exit) as [VmforkError];
    expect(reason).toMatchObject({
      code: 'VMF_GONE',
      cause: {
        code: 'VMF_GUEST_PANIC',
        message: expect.stringContaining('Attempted to kill init'),
      },
    });
  });

  test('a snapshot under way is rejected when the machine goes', async () => {
    const clone = await snapshot.fork();
    const freezing = clone.snapshot();
    freezing.catch(() => {});
    await clone.destroy();
    await expect(freezing).rejects.toMatchObject({ code: 'VMF_GONE' });
  });
});

describe('engines', () => {
  test('several live side by side; closing one ends only its own', async () => {
    await using one = new Engine();
    const two = new Engine();
    const [inOne, inTwo] = await Promise.all([templateSnapshot(1, one), templateSnapshot(1, two)]);
    const [a, b] = await Promise.all([inOne.fork(), inTwo.fork()]);
    const exit = once(b, 'exit');
    await two.close();
    await exit;
    await expect(b.ping()).rejects.toMatchObject({ code: 'VMF_GONE' });
    await expect(inTwo.fork()).rejects.toMatchObject({ code: 'VMF_STATE' });
    expect((await a.exec(['echo', 'one'])).stdout).toBe('one\n');
    expect(one.vmCount).toBe(1);
    await two.close();
    await inOne.destroy();
    await inTwo.destroy();
  });
});
