// Commands, terminals and files in a real guest.
import { createHash, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Clone, Snapshot } from 'vmfork';
import { scale, templateSnapshot } from '../helpers/kvm.js';
import { expectEcho } from '../helpers/large-stream.js';

const MIB = 1024 * 1024;
let snapshot: Snapshot;
let clone: Clone;

beforeAll(async () => {
  snapshot = await templateSnapshot();
  clone = await snapshot.fork();
});
afterAll(async () => {
  await clone?.destroy();
  await snapshot?.destroy();
});

test('a command gives output, exit code and signal', async () => {
  await expect(clone.exec(['true'])).resolves.toMatchObject({
    exitCode: 0,
    stdout: '',
    stderr: '',
  });
  await expect(clone.exec(['sh', '-c', 'echo out; echo err >&2; exit 7'])).resolves.toMatchObject({
    exitCode: 7,
    stdout: 'out\n',
    stderr: 'err\n',
  });
  await expect(clone.exec(['sh', '-c', 'kill -TERM $$'])).resolves.toMatchObject({
    signal: 'SIGTERM',
  });
});

test('stdin, env, cwd, uid and encoding reach the command', async () => {
  const bytes = randomBytes(100_000);
  const result = await clone.exec(['cat'], { stdin: bytes, encoding: 'buffer' });
  expect(result.stdout.equals(bytes)).toBe(true);
  const options = { env: { PATH: '/usr/bin', A: '1' }, cwd: '/tmp', uid: 1000, gid: 1000 };
  const { stdout } = await clone.exec(['sh', '-c', 'echo $A; pwd; id -u; id -g'], options);
  expect(stdout).toBe('1\n/tmp\n1000\n1000\n');
});

test('what cannot be run is named', async () => {
  await expect(clone.exec(['no-such'])).rejects.toMatchObject({ code: 'VMF_COMMAND_NOT_FOUND' });
  await expect(clone.exec(['true'], { cwd: '/no/such' })).rejects.toMatchObject({
    code: 'VMF_COMMAND_FAILED_TO_START',
    operation: 'chdir',
  });
  await expect(clone.exec([])).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
});

test('limits cut a command off and the clone goes on', async () => {
  await expect(clone.exec(['sleep', '100'], { timeoutMs: 300 })).rejects.toMatchObject({
    code: 'VMF_TIMEOUT',
    result: { timedOut: true },
  });
  const signal = AbortSignal.timeout(300);
  await expect(clone.exec(['sleep', '100'], { signal })).rejects.toMatchObject({
    code: 'VMF_ABORTED',
  });
  await expect(clone.exec(['yes'], { maxBuffer: 5000 })).rejects.toMatchObject({
    code: 'VMF_OUTPUT_LIMIT',
  });
  await clone.ping();
});

const atOnce = scale({ full: 64, nested: 64, interpreted: 24 });

test(`${atOnce} commands at once in one clone`, async () => {
  const runs = Array.from({ length: atOnce }, (_, index) => clone.exec(['echo', String(index)]));
  for (const [index, result] of (await Promise.all(runs)).entries()) {
    expect(result).toMatchObject({ exitCode: 0, signal: null, stdout: `${index}\n`, stderr: '' });
  }
});

test('a terminal has a size, follows resize(), and interrupts', async () => {
  const shell = clone.spawn(['sh'], { pty: { columns: 100, rows: 30 } });
  let output = '';
  shell.stdout.on('data', (chunk) => {
    output += chunk;
  });
  const until = async (text: string) => {
    while (!output.includes(text))
      await new Promise((resolve) => shell.stdout.once('data', resolve));
  };
  shell.stdin?.write('stty size\n');
  await until('30 100');
  shell.resize({ columns: 90, rows: 20 });
  shell.stdin?.write('stty size\n');
  await until('20 90');
  shell.stdin?.write('sleep 100\n');
  await until('sleep 100\r\n');
  await new Promise((resolve) => setTimeout(resolve, 1000));
  shell.stdin?.write('\x03exit 5\n');
  await expect(shell.exited).resolves.toMatchObject({ exitCode: 5 });
});

describe('large streams', () => {
  const total = scale({ full: 256, nested: 32, interpreted: 2 });

  test(`${total} MiB through a command, both ways, hash-checked, with bounded memory`, async () => {
    const command = clone.spawn(['cat']);
    if (!command.stdin) throw new Error('no stdin');
    await expectEcho(command.stdin, command.stdout, total);
    await expect(command.exited).resolves.toMatchObject({ exitCode: 0 });
  });

  test('a reader that stops, stops the guest', async () => {
    const command = clone.spawn(['yes'], { stdin: 'ignore' });
    await command.pid;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(command.stdout.readableLength).toBeLessThanOrEqual(262_144);
    command.kill('SIGKILL');
    command.stdout.resume();
    await expect(command.exited).resolves.toMatchObject({ signal: 'SIGKILL' });
  });
});

test('files go both ways', async () => {
  const bytes = randomBytes(scale({ full: 8, nested: 8, interpreted: 1 }) * MIB);
  await clone.writeFile('/tmp/dir/file', bytes, { makeParents: true, mode: 0o640 });
  expect((await clone.readFile('/tmp/dir/file')).equals(bytes)).toBe(true);
  const digest = createHash('sha256').update(bytes).digest('hex');
  const { stdout } = await clone.exec([
    'sh',
    '-c',
    'sha256sum /tmp/dir/file; stat -c %a /tmp/dir/file',
  ]);
  expect(stdout).toBe(`${digest}  /tmp/dir/file\n640\n`);
  await expect(clone.readFile('/no/such')).rejects.toMatchObject({
    code: 'VMF_GUEST_FILE',
    errno: 2,
  });
});
