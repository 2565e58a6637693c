// The command line as a user meets it, as far as it needs no /dev/kvm: the built program, its help, its exit codes.

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { program, startVmfork } from '../../helpers/cli.js';

function vmfork(...args: string[]) {
  return spawnSync(process.execPath, [program, ...args], { encoding: 'utf8' });
}

test('--help names every verb and every exit code', () => {
  const { status, stdout } = vmfork('--help');
  expect(status).toBe(0);
  for (const word of ['doctor', 'demo', 'bench', 'exec', '124', '125', '126', '127', '128+n']) {
    expect(stdout).toContain(word);
  }
});

test.each([
  ['an unknown verb', ['fly']],
  ['an unknown option', ['images', '--fast']],
  ['a missing argument', ['pull']],
])('%s is a usage error, exit code 2', (_, args) => {
  const { status, stdout, stderr } = vmfork(...args);
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr).toContain('error:');
});

test.each([
  ['exec without a command', ['exec']],
  ['a time limit that is no number', ['exec', '--timeout-ms', 'soon', '--', 'true']],
  [
    'a time limit beyond what a timer can wait',
    ['exec', '--timeout-ms', '9999999999', '--', 'true'],
  ],
  ['a variable without a name', ['exec', '--env', '=value', '--', 'true']],
  ['a terminal and a document at once', ['exec', '--tty', '--json', '--', 'true']],
  ['run without an image', ['run']],
  ['an option that run has not', ['run', '--fast', 'busybox']],
  ['memory that is no size', ['run', '--memory', 'much', 'busybox']],
  ['no processors', ['run', '--cpus', '0', 'busybox']],
])('%s is told from what the command itself ends with, exit code 125', (_, args) => {
  const { status, stdout, stderr } = vmfork(...args);
  expect({ status, stdout }).toEqual({ status: 125, stdout: '' });
  expect(stderr).toContain('error:');
});

test('results that nobody reads end with code 141, without a stack', async () => {
  const child = startVmfork('doctor', '--json');
  child.stdout.destroy();
  const [stderr, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')]);
  expect({ code, stderr }).toEqual({ code: 141, stderr: '' });
});

test('bench refuses an unknown case and names those there are', () => {
  const { status, stderr } = vmfork('bench', 'tea');
  expect(status).toBe(2);
  expect(stderr).toContain('first-response');
});

test('doctor prints one JSON document and agrees with its exit code', () => {
  const { status, stdout } = vmfork('doctor', '--json');
  const { healthy, findings } = JSON.parse(stdout) as { healthy: boolean; findings: object[] };
  expect(status).toBe(healthy ? 0 : 1);
  expect(findings.length).toBeGreaterThan(4);
});
