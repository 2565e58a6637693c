// `vmfork exec` and `vmfork demo` as programs: streams, exit codes, signals. The template is the cached one of the suite.

import { once } from 'node:events';
import { expect, test } from 'vitest';
import { startVmfork, vmfork } from '../../helpers/cli.js';

test('exec passes standard input, output and error through and ends with the exit code', async () => {
  const script = 'cat; echo problem >&2; exit 7';
  const { code, stdout, stderr } = await vmfork(['exec', '--', 'sh', '-c', script], 'some input');
  expect(stdout).toBe('some input');
  expect(stderr).toContain('problem');
  expect(code).toBe(7);
});

test('exec gives the command its variables and working directory', async () => {
  const options = ['--env', 'COLOUR=green', '--cwd', '/tmp'];
  const run = await vmfork(['exec', ...options, '--', 'sh', '-c', 'echo $COLOUR in $PWD']);
  expect(run.stdout).toBe('green in /tmp\n');
});

test.each([
  ['a command that is not there', 127, ['/no/such/command']],
  ['a file that cannot be run', 126, ['/etc/passwd']],
  ['a command ended by a signal', 128 + 15, ['sh', '-c', 'kill -TERM $$']],
  ['a command that takes too long', 124, ['sleep', '1000']],
])('%s ends with exit code %d', async (_, expected, argv) => {
  const limit = expected === 124 ? ['--timeout-ms', '500'] : [];
  const { code } = await vmfork(['exec', ...limit, '--', ...argv]);
  expect(code).toBe(expected);
});

test('exec --json prints one document with result, identity and timings', async () => {
  const { code, stdout } = await vmfork(['exec', '--json', '--', 'cat', '/etc/hostname']);
  const document = JSON.parse(stdout) as {
    exitCode: number;
    stdout: string;
    machine: { hostname: string };
    timings: object[];
  };
  expect(code).toBe(0);
  expect(document.exitCode).toBe(0);
  expect(document.stdout).toBe(`${document.machine.hostname}\n`);
  expect(document.timings.length).toBeGreaterThan(3);
});

test('Ctrl-C ends exec with code 130', async () => {
  const child = startVmfork('exec', '--', 'sh', '-c', 'echo running; sleep 1000');
  await once(child.stdout, 'data');
  child.kill('SIGINT');
  const [code] = (await once(child, 'exit')) as [number | null];
  expect(code).toBe(130);
});

test('exec ends with code 141 when nobody reads what the command writes, whatever it thinks of SIGPIPE', async () => {
  const child = startVmfork('exec', '--', 'sh', '-c', 'trap "" PIPE; while :; do echo y; done');
  await once(child.stdout, 'data');
  child.stdout.destroy();
  const [code] = await once(child, 'close');
  expect(code).toBe(141);
});

test('demo --json proves that its machines are different and share memory', async () => {
  const { code, stdout } = await vmfork(['demo', '--json']);
  const { machines, proof } = JSON.parse(stdout) as { machines: object[]; proof: object };
  expect(proof).toEqual({
    ownIds: true,
    ownEntropy: true,
    ownFiles: true,
    saidByTheGuest: true,
    memoryShared: true,
  });
  expect(machines).toHaveLength(20);
  expect(code).toBe(0);
});
