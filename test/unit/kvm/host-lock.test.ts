import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HostLock } from '#src/kvm/host-lock.js';

const OWNER = `require('node:net').createServer(() => console.log('is waited for'))
  .listen('lock', () => console.log('has it'))`;

let folder: string;
let path: string;

beforeEach(() => {
  // Longer than an address may be.
  folder = mkdtempSync(join(tmpdir(), `vmfork-${'long-'.repeat(30)}`));
  path = join(folder, 'lock');
});

afterEach(() => rmSync(folder, { recursive: true }));

test('one at a time has it, and it leaves nothing behind', async () => {
  let inside = 0;
  let most = 0;
  const visit = async () => {
    await using lock = await HostLock.take(path, 'visit');
    expect(lock).not.toBeNull();
    most = Math.max(most, ++inside);
    await new Promise(setImmediate);
    inside--;
  };
  await Promise.all(Array.from({ length: 20 }, visit));
  expect(most).toBe(1);
  expect(readdirSync(folder)).toEqual([]);
});

test('who waits gets it when the process that has it dies', async () => {
  const owner = spawn(process.execPath, ['-e', OWNER], { cwd: folder });
  const said = createInterface(owner.stdout)[Symbol.asyncIterator]();
  expect(await said.next()).toMatchObject({ value: 'has it' });
  const taking = HostLock.take(path, 'wait');
  expect(await said.next()).toMatchObject({ value: 'is waited for' });
  owner.kill('SIGKILL');
  await using lock = await taking;
  expect(lock).not.toBeNull();
});

test('a wait can be given up', async () => {
  await using _held = await HostLock.take(path, 'hold');
  const controller = new AbortController();
  const waiting = HostLock.take(path, 'cached', controller.signal);
  await new Promise(setImmediate);
  controller.abort();
  await expect(waiting).rejects.toMatchObject({ code: 'VMF_ABORTED', operation: 'cached' });
});

test('where no socket can be, nothing is locked', async () => {
  expect(await HostLock.take('/proc/self/lock', 'x')).toBeNull();
});
