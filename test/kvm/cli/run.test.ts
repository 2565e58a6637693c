// `vmfork run` and its images and snapshots as programs, with the built-in image and the cached template of the suite.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { program, startVmfork, vmfork } from '../../helpers/cli.js';

const IMAGE = 'busybox';
let snapshotId: string;

// Every run below forks it; without it each would attach the image for itself.
beforeAll(async () => {
  const { stdout, stderr, code } = await vmfork(['snapshot', 'create', IMAGE, '--json']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  snapshotId = JSON.parse(stdout).id;
});
afterAll(async () => {
  await vmfork(['snapshot', 'rm', snapshotId]);
});

describe('run', () => {
  test('passes streams through with -i and ends with the exit code', async () => {
    const argv = ['run', '-i', IMAGE, 'sh', '-c', 'cat; echo problem >&2; exit 7'];
    const { code, stdout, stderr } = await vmfork(argv, 'some input');
    expect({ code, stdout }).toEqual({ code: 7, stdout: 'some input' });
    expect(stderr).toContain('problem');
  });

  test('has no standard input without -i', async () => {
    expect(await vmfork(['run', IMAGE, 'cat'], 'lost')).toMatchObject({ code: 0, stdout: '' });
  });

  test('sets variables, directory, user and entrypoint', async () => {
    const options = [
      '-e',
      'COLOUR=green',
      '-e',
      'HOME',
      '-w',
      '/var',
      '-u',
      '65534',
      '--entrypoint',
      'sh',
    ];
    const line = 'echo $COLOUR $HOME $PWD $(id -u) $$';
    const run = await vmfork(['run', ...options, IMAGE, '-c', line]);
    expect(run.stdout).toBe(`green ${process.env.HOME} /var 65534 1\n`);
  });

  test('-e of a variable that we have not takes it away', async () => {
    const options = ['-e', 'COLOUR=green', '-e', 'COLOUR', '-e', 'EMPTY='];
    const { stdout } = await vmfork(['run', ...options, IMAGE, 'env']);
    expect(stdout.split('\n')).toContain('EMPTY=');
    expect(stdout).not.toContain('COLOUR');
  });

  test('--read-only and --tmpfs', async () => {
    const script = 'touch /x 2>/dev/null || touch /scratch/y && ls /scratch';
    const options = ['--read-only', '--tmpfs', '/scratch:size=1m'];
    expect((await vmfork(['run', ...options, IMAGE, 'sh', '-c', script])).stdout).toBe('y\n');
  });

  test('--memory and --cpus, rounded up, are the machine’s, --disk is where it writes', async () => {
    const script =
      'nproc; free -m | while read -r n t x; do [ $n = Mem: ] && echo $t; done; cat /proc/mounts';
    const options = ['--memory', '192m', '--cpus', '1.5', '--disk', '16m'];
    const { stdout } = await vmfork(['run', ...options, IMAGE, 'sh', '-c', script]);
    const [processors, mebibytes, ...mounts] = stdout.split('\n');
    expect(processors).toBe('2');
    expect(Number(mebibytes)).toBeGreaterThan(128);
    expect(Number(mebibytes)).toBeLessThan(192);
    // Only what is thrown away anyway need not be synchronised.
    expect(mounts).toContainEqual(expect.stringMatching(/^overlay \/ overlay .*volatile/));
  });

  test('--cap-add, --cap-drop and --privileged', async () => {
    const script =
      'while read -r n v; do [ $n = CapEff: ] && echo $v; done </proc/self/status; true';
    const privileges = async (...options: string[]) =>
      (await vmfork(['run', ...options, IMAGE, 'sh', '-c', script])).stdout.trim();
    expect(await privileges('--cap-drop', 'ALL', '--cap-add', 'NET_ADMIN')).toBe(
      '0000000000001000',
    );
    expect(await privileges('--privileged')).toBe('000001ffffffffff');
  });

  test.each([
    ['a command that is not there', 127, [IMAGE, '/no/such/command']],
    ['a file that cannot be run', 126, [IMAGE, '/etc/passwd']],
    // Process 1 of a namespace cannot kill itself.
    ['a command ended by a signal', 128 + 9, ['--init', IMAGE, 'sh', '-c', 'kill -9 $$']],
  ])('%s ends with exit code %d', async (_, expected, argv) => {
    expect((await vmfork(['run', ...argv])).code).toBe(expected);
  });

  test('forwards signals to the main process, a reload as often as it is asked for', async () => {
    // Without CONT: whoever stops tests for a while sends one of his own.
    const signals = ['HUP', 'HUP', 'HUP', 'HUP', 'USR1', 'USR2', 'QUIT', 'ALRM', 'TERM'];
    const traps = [...new Set(signals)].map((name) => `trap "echo ${name}" ${name}`).join('; ');
    const last = 'trap "echo TERM; exit 5" TERM';
    const script = `${traps}; ${last}; echo ready; while :; do sleep 0.1; done`;
    const child = startVmfork('run', IMAGE, 'sh', '-c', script);
    const [stderr, ended] = [text(child.stderr), once(child, 'close')];
    const seen: string[] = [];
    for await (const line of createInterface(child.stdout)) {
      const next = signals[seen.length];
      seen.push(line);
      if (next) child.kill(`SIG${next}` as NodeJS.Signals);
    }
    expect(seen).toEqual(['ready', ...signals]);
    expect({ code: (await ended)[0], stderr: await stderr }).toEqual({ code: 5, stderr: '' });
  });

  test('forwards signals with --json, too', async () => {
    const bytes = 1024 * 1024;
    const script = `trap "exit 5" USR1; head -c ${bytes} >/dev/null; while :; do sleep 0.1; done`;
    const child = startVmfork('run', '-i', '--json', IMAGE, 'sh', '-c', script);
    // More than fits on the way: when it is gone, somebody reads it.
    child.stdin.write(Buffer.alloc(bytes), () => child.kill('SIGUSR1'));
    const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, 'close')]);
    expect(code).toBe(5);
    expect(JSON.parse(stdout)).toMatchObject({ exitCode: 5 });
  });

  test.each([
    ['ignores signals, as a first process does', ['yes']],
    ['tidies up', ['sh', '-c', 'trap "echo tidied >&2; exit 3" PIPE; while :; do echo y; done']],
  ])(
    'ends with code 141 when nobody reads what it writes: a command that %s',
    async (what, argv) => {
      const child = startVmfork('run', IMAGE, ...argv);
      const stderr = text(child.stderr);
      await once(child.stdout, 'data');
      child.stdout.destroy();
      const [code] = await once(child, 'close');
      expect({ code, stderr: await stderr }).toEqual({
        code: 141,
        stderr: what === 'tidies up' ? 'tidied\n' : '',
      });
    },
  );

  test('ends with code 125 and says why when what it writes cannot be kept', async () => {
    const full = openSync('/dev/full', 'w');
    const child = spawn(process.execPath, [program, 'run', IMAGE, 'yes'], {
      stdio: ['ignore', full, 'pipe'],
    });
    closeSync(full);
    const [stderr, [code]] = await Promise.all([
      text(child.stderr as Readable),
      once(child, 'exit'),
    ]);
    expect(code).toBe(125);
    expect(stderr).toMatch(/output of the command: ENOSPC/);
  });

  test('--json prints one document', async () => {
    const { code, stdout } = await vmfork(['run', '--json', IMAGE, 'hostname']);
    const document = JSON.parse(stdout);
    expect(document).toMatchObject({ exitCode: 0, oomKilled: false, signal: null });
    expect(document.stdout).toBe(`${document.machine.hostname}\n`);
    expect(code).toBe(0);
  });

  test('an image that is nowhere is told, with code 125', async () => {
    const { code, stderr } = await vmfork(['run', 'localhost:1/no/such']);
    expect(code).toBe(125);
    expect(stderr).toMatch(/VMF_REGISTRY/);
  });
});

test('images and snapshots are listed, inspected and refused by name', async () => {
  const images = JSON.parse((await vmfork(['images', '--json'])).stdout);
  expect(images).toContainEqual(
    expect.objectContaining({ reference: 'docker.io/library/busybox:latest' }),
  );
  const inspected = JSON.parse((await vmfork(['inspect', IMAGE])).stdout);
  expect(inspected.config.config.Cmd).toEqual(['sh']);
  const snapshots = JSON.parse((await vmfork(['snapshot', 'ls', '--json'])).stdout);
  expect(snapshots).toContainEqual(expect.objectContaining({ id: snapshotId, memoryMiB: 128 }));
  expect(await vmfork(['rmi', 'no/such'])).toMatchObject({ code: 1 });
  expect(await vmfork(['snapshot', 'rm', 'nothing'])).toMatchObject({ code: 1 });
});
