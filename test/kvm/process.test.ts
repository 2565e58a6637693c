// How a process that uses the library ends: promptly, by itself or by force, and without a trace.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cacheDirectory } from '#src/kvm/guest.js';
import { templateSnapshot } from '../helpers/kvm.js';

const scratch = mkdtempSync(join(tmpdir(), 'vmfork-process-'));
beforeAll(async () => {
  await (await templateSnapshot()).destroy();
});
afterAll(() => rmSync(scratch, { recursive: true }));

function start(fixture: string, ...args: string[]): ChildProcess {
  return spawn(process.execPath, [join('test/kvm/fixtures', fixture), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: scratch },
  });
}

async function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  const [code, signal] = await once(child, 'exit');
  return { code, signal };
}

/** Processes that were started by this one. */
function childrenOf(pid: number): string[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  return existsSync(path) ? readFileSync(path, 'utf8').split(' ').filter(Boolean) : [];
}

test('an idle library lets the process end', async () => {
  const child = start('idle.mjs');
  const [output, status] = await Promise.all([text(child.stdout as never), ended(child)]);
  expect(output).toBe('last line\n');
  expect(status).toEqual({ code: 0, signal: null });
});

test('an unhandled exception ends the process at once, whatever is under way', async () => {
  const child = start('busy.mjs', 'throw');
  const [errors, status] = await Promise.all([text(child.stderr as never), ended(child)]);
  expect(errors).toContain('user code fails');
  expect(status).toEqual({ code: 1, signal: null });
});

test.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)(
  '%s ends the process and leaves no process, file or mount behind',
  async (signal) => {
    const mounts = readFileSync('/proc/mounts', 'utf8');
    const child = start('busy.mjs');
    const pid = child.pid as number;
    await once(child.stdout as never, 'data');
    expect(childrenOf(pid)).toEqual([]);
    const status = ended(child);
    child.kill(signal);
    expect(await status).toEqual({ code: null, signal });
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    expect(readFileSync('/proc/mounts', 'utf8')).toBe(mounts);
    expect(readdirSync(scratch)).toEqual([]);
  },
);

test('killed while containers run and disks are made, it leaves no process, mount or scratch disk', async () => {
  const mounts = readFileSync('/proc/mounts', 'utf8');
  const child = start('containers.mjs');
  const pid = child.pid as number;
  await once(child.stdout as never, 'data');
  const status = ended(child);
  child.kill('SIGKILL');
  expect(await status).toEqual({ code: null, signal: 'SIGKILL' });
  expect(existsSync(`/proc/${pid}`)).toBe(false);
  expect(readFileSync('/proc/mounts', 'utf8')).toBe(mounts);
  expect(readdirSync(join(cacheDirectory(), 'scratch'))).toEqual([]);
});

test('worker threads have engines of their own and can be terminated', async () => {
  const child = start('workers.mjs');
  const [output, errors, status] = await Promise.all([
    text(child.stdout as never),
    text(child.stderr as never),
    ended(child),
  ]);
  expect(errors).toBe('');
  expect(output).toBe('6\n');
  expect(status).toEqual({ code: 0, signal: null });
});
