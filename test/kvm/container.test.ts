// The main process of a container: how it is started, what it may do, and how it and its machine end.
import { once } from 'node:events';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RunOptions, type RunResult, Snapshot } from 'vmfork';
import { busyboxRootfs, untilLine, warmedSnapshot } from '../helpers/images.js';
import { BOOT_TIMEOUT_MS, destroyAll } from '../helpers/kvm.js';

// Docker's fourteen: moby/profiles/capabilities, DefaultCapabilities.
const DEFAULT_CAPABILITIES = '00000000a80425fb';
const SIGKILL_CODE = 128 + 9;
const SIGTERM_CODE = 128 + 15;
let snapshot: Snapshot;

beforeAll(async () => {
  const rootfs = await busyboxRootfs();
  const config = { Entrypoint: ['echo', 'image'], Cmd: ['says', 'this'], Env: ['FROM=image'] };
  snapshot = await warmedSnapshot({ ...rootfs, config });
});
afterAll(() => snapshot?.destroy());

/** Runs a container in a clone of its own. */
async function run(options: RunOptions): Promise<RunResult> {
  await using clone = await snapshot.fork();
  return await clone.run(options);
}

/** Runs a line of shell. */
const shell = (line: string, options: RunOptions = {}): Promise<RunResult> =>
  run({ ...options, entrypoint: ['sh', '-c', line], argv: [] });

/** Prints a line of /proc/self/status, by the shell alone. */
const status = (names: string): string =>
  `while read -r n v; do case $n in ${names}) echo "$n $v";; esac; done </proc/self/status`;

test('entrypoint, arguments and environment are the image’s until they are replaced', async () => {
  const [own, given, bare, env] = await Promise.all([
    run({}),
    run({ argv: ['hears', "a b'$c"] }),
    run({ entrypoint: ['env'] }),
    shell('echo $FROM $ADDED', { env: { ADDED: 'by caller' } }),
  ]);
  expect(own).toMatchObject({ exitCode: 0, signal: null, stdout: 'image says this\n', stderr: '' });
  expect(given.stdout).toBe("image hears a b'$c\n");
  expect(bare.stdout).toMatch(/^HOSTNAME=vmfork-[0-9a-f]{8}$/m);
  expect(env.stdout).toBe('image by caller\n');
});

test('arguments, variables and the directory are bytes', async () => {
  const odd = Buffer.from('a\xff\xc3b', 'latin1');
  const cwd = Buffer.concat([Buffer.from('/made/'), odd]);
  await using clone = await snapshot.fork();
  const { stdout } = await clone.run({
    entrypoint: ['sh', '-c', 'printf %s "$1$VALUE"; pwd', 'sh'],
    argv: [odd],
    env: { VALUE: odd },
    cwd,
    encoding: 'buffer',
  });
  expect(stdout).toEqual(Buffer.concat([odd, odd, cwd, Buffer.from('\n')]));
});

test('exit codes and both outputs come back, and input arrives', async () => {
  const [failed, cat] = await Promise.all([
    shell('echo out; echo err >&2; exit 3'),
    run({ entrypoint: ['cat'], stdin: 'through and through' }),
  ]);
  expect(failed).toMatchObject({ exitCode: 3, stdout: 'out\n', stderr: 'err\n', oomKilled: false });
  expect(cat).toMatchObject({ exitCode: 0, stdout: 'through and through' });
});

test('what cannot be run is named, and the machine stays', async () => {
  await using clone = await snapshot.fork();
  await expect(clone.run({ entrypoint: ['no-such'] })).rejects.toMatchObject({
    code: 'VMF_COMMAND_NOT_FOUND',
  });
  await expect(clone.run({ entrypoint: ['/etc/passwd'] })).rejects.toMatchObject({
    code: 'VMF_COMMAND_FAILED_TO_START',
    operation: 'exec',
    errno: 13,
  });
  await expect(clone.run({ user: 'stranger' })).rejects.toMatchObject({
    code: 'VMF_COMMAND_FAILED_TO_START',
    operation: 'user',
  });
  await expect(clone.run({ user: 'root:strangers' })).rejects.toMatchObject({
    code: 'VMF_COMMAND_FAILED_TO_START',
    operation: 'user',
  });
  await expect(clone.run({ entrypoint: [], argv: [] })).rejects.toMatchObject({
    code: 'VMF_OPTIONS',
  });
  await expect(clone.run()).resolves.toMatchObject({ exitCode: 0 });
});

test('user, groups, home, directory and umask are as asked for', async () => {
  const line = `id -u; id -g; ${status('Groups:')}; echo $HOME; pwd; umask`;
  const [name, numbers] = await Promise.all([
    shell(line, { user: 'nobody', cwd: '/var/tmp', umask: 0o27 }),
    shell(line, { user: '1234:100', cwd: '/made/for/it' }),
  ]);
  expect(name.stdout).toBe('65534\n65534\nGroups: 65534\n/home\n/var/tmp\n0027\n');
  expect(numbers.stdout).toBe('1234\n100\nGroups: 100\n/\n/made/for/it\n0022\n');
});

test('it has Docker’s capabilities, or those that were asked for', async () => {
  const line = status('CapEff:|CapBnd:|NoNewPrivs:');
  const [usual, changed, user] = await Promise.all([
    shell(line),
    shell(line, { capDrop: ['ALL'], capAdd: ['NET_ADMIN'], noNewPrivileges: true }),
    shell(line, { user: 'nobody' }),
  ]);
  const three = (effective: string, bounding: string, locked: number) =>
    `CapEff: ${effective}\nCapBnd: ${bounding}\nNoNewPrivs: ${locked}\n`;
  expect(usual.stdout).toBe(three(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES, 0));
  expect(changed.stdout).toBe(three('0000000000001000', '0000000000001000', 1));
  expect(user.stdout).toBe(three('0000000000000000', DEFAULT_CAPABILITIES, 0));
});

test('its namespaces are its own, and its limits hold', async () => {
  await using clone = await snapshot.fork({ hostname: 'container-host' });
  const names = 'for n in pid mnt uts ipc; do readlink /proc/self/ns/$n; done';
  const line = `echo $$; hostname; cat /etc/hostname; echo /proc/[0-9]*; ulimit -n; ${names}`;
  const { stdout } = await clone.run({
    entrypoint: ['sh', '-c', line],
    rlimits: { nofile: { soft: 77, hard: 99 } },
    keep: true,
  });
  const [pid, uname, file, processes, files, ...namespaces] = stdout.trim().split('\n');
  expect({ pid, uname, file, processes, files }).toEqual({
    pid: '1',
    uname: 'container-host',
    file: 'container-host',
    processes: '/proc/1',
    files: '77',
  });
  const outside = await clone.exec(['sh', '-c', names], { in: 'guest' });
  expect(namespaces).toHaveLength(4);
  for (const namespace of outside.stdout.trim().split('\n')) {
    expect(namespaces).not.toContain(namespace);
  }
});

test('what a container must not see of the kernel is hidden', async () => {
  const write = (path: string) => `(echo 1 >${path}) 2>&1`;
  const { stdout } = await shell(
    `test -e /proc/kcore || echo none; ${write('/proc/sysrq-trigger')}; ${write('/proc/sys/vm/swappiness')}`,
  );
  expect(stdout.trim().split('\n')).toEqual([
    'none',
    expect.stringMatching(/sysrq-trigger: Read-only file system$/),
    expect.stringMatching(/swappiness: Read-only file system$/),
  ]);
});

test('it opens Docker’s devices only, whatever nodes it makes, unless it is privileged', async () => {
  const make = 'IFS=: read -r a b </sys/block/vda/dev; mknod /disk b $a $b; cd /dev';
  const open = 'for d in /disk null zero full random urandom tty ptmx; do (: <$d) 2>&1; done';
  const pty = { columns: 80, rows: 24 };
  const [usual, privileged] = await Promise.all([
    shell(`${make}; mknod disk b $a $b && (: <disk) 2>&1; ${open}`, { pty }),
    shell(`${make}; ${open} && echo all`, { privileged: true, pty }),
  ]);
  const refused = (name: string) =>
    expect.stringMatching(new RegExp(`can't open ${name}: Operation not permitted$`));
  expect(usual.stdout.trim().split('\r\n')).toEqual([refused('disk'), refused('/disk')]);
  expect(privileged.stdout).toBe('all\r\n');
});

test('it starts in a machine where a command has killed every process', async () => {
  await using clone = await snapshot.fork();
  expect(await clone.exec(['sh', '-c', 'kill -9 -1'])).toMatchObject({ exitCode: 0 });
  const { stdout } = await clone.run({ entrypoint: ['echo', 'starts'], argv: [] });
  expect(stdout).toBe('starts\n');
});

test('the machine ends with its main process, unless it is kept', async () => {
  await using ends = await snapshot.fork();
  await using stays = await snapshot.fork();
  const gone = once(ends, 'exit');
  await Promise.all([ends.run(), stays.run({ keep: true })]);
  await gone;
  expect(ends.state).toBe('destroyed');
  expect(stays.state).toBe('running');
  expect(stays.container?.running).toBe(false);
  await expect(stays.exec(['true'], { in: 'container' })).rejects.toMatchObject({
    code: 'VMF_STATE',
  });
  await expect(stays.run({ argv: ['again'] })).resolves.toMatchObject({ stdout: 'image again\n' });
  await expect(ends.run()).rejects.toMatchObject({ code: 'VMF_GONE' });
});

test('it stops by its signal, or is killed after the grace', async () => {
  const start = async (trap: string, stopSignal?: string) => {
    const clone = await snapshot.fork();
    const line = `trap '${trap}; echo ready; sleep 1000 & while :; do wait; done`;
    const container = clone.start({ entrypoint: ['sh', '-c', line], stopSignal });
    await untilLine(container.main.stdout, 'ready');
    return container;
  };
  const [obedient, patient, deaf, killed] = await Promise.all([
    start("exit 9' USR1", 'SIGUSR1'),
    // A timer that is given more than it can take ends at once.
    start("sleep 0.2; exit 8' TERM"),
    start("' TERM"),
    start("' TERM"),
  ]);
  killed.main.kill('SIGKILL');
  for (const graceMs of [2 ** 31, -1, Number.NaN]) {
    await expect(deaf.stop({ graceMs })).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  }
  const ends = await Promise.all([
    obedient.stop(),
    patient.stop({ graceMs: Number.POSITIVE_INFINITY }),
    deaf.stop({ graceMs: 200 }),
    killed.exited,
  ]);
  expect(ends).toMatchObject([
    { exitCode: 9, signal: null },
    { exitCode: 8, signal: null },
    { exitCode: SIGKILL_CODE, signal: 'SIGKILL' },
    { exitCode: SIGKILL_CODE, signal: 'SIGKILL', oomKilled: false },
  ]);
});

test('an init process passes signals on and collects orphans', async () => {
  const [died, orphans] = await Promise.all([
    shell('kill -TERM $$', { init: true }),
    shell('echo $$; (sleep 0.1 &); sleep 0.5; cat /proc/[0-9]*/comm', { init: true }),
  ]);
  expect(died.exitCode).toBe(SIGTERM_CODE);
  const [pid, ...names] = orphans.stdout.trim().split('\n');
  expect(pid).not.toBe('1');
  expect(names).not.toContain('sleep');
});

test('what the kernel killed for want of memory is told', async () => {
  const grow = 'a=12345678; while :; do a=$a$a; done';
  const result = await shell(grow, { memoryMaxBytes: 2 * 1024 * 1024 });
  expect(result).toMatchObject({ exitCode: SIGKILL_CODE, signal: 'SIGKILL', oomKilled: true });
});

test(
  'without a limit of its own it is the container that runs out of memory, and the machine stays',
  async () => {
    // The smallest machine: an interpreted kernel takes minutes to fill the usual one.
    const options = { memoryMiB: 32, bootTimeoutMs: BOOT_TIMEOUT_MS };
    await using small = await Snapshot.cached(options);
    await using clone = await small.fork();
    await clone.attach(await busyboxRootfs());
    const argv = ['dd', 'if=/dev/zero', 'of=/dev/null', 'bs=12M'];
    const result = await clone.run({ argv, keep: true });
    expect(result).toMatchObject({ exitCode: SIGKILL_CODE, signal: 'SIGKILL', oomKilled: true });
    expect(result.maxRssKiB).toBeGreaterThan(4 * 1024);
    await expect(clone.run({ argv: ['true'] })).resolves.toMatchObject({ oomKilled: false });
  },
  2 * BOOT_TIMEOUT_MS,
);

test('one that is cut off takes its machine along, unless it is kept', async () => {
  const endless = { entrypoint: ['sh', '-c', 'while :; do echo more; done'], argv: [] };
  const abort = new AbortController();
  const cuts: [string, RunOptions][] = [
    ['VMF_TIMEOUT', { timeoutMs: 500, maxBuffer: 2 ** 30 }],
    ['VMF_ABORTED', { signal: abort.signal, maxBuffer: 2 ** 30 }],
    ['VMF_OUTPUT_LIMIT', { maxBuffer: 100 }],
  ];
  const clones = await snapshot.fork({ count: 2 * cuts.length });
  const ends = clones.map(async (clone, index) => {
    const [code, limits] = cuts[index >> 1] as (typeof cuts)[number];
    const cutOff = clone.run({ ...endless, ...limits, keep: index % 2 === 1 });
    if (limits.signal) clone.container?.main.once('spawn', () => abort.abort());
    await expect(cutOff).rejects.toMatchObject({ code });
    return clone.state;
  });
  expect(await Promise.all(ends)).toEqual(cuts.flatMap(() => ['destroyed', 'running']));
  await destroyAll(clones);
});

test('one that is cut off while it is streamed takes its machine along, too', async () => {
  await using clone = await snapshot.fork();
  const container = clone.start({ entrypoint: ['sleep', '1000'], timeoutMs: 500 });
  await expect(container.exited).rejects.toMatchObject({ code: 'VMF_TIMEOUT' });
  expect(clone.state).toBe('destroyed');
});

test('a terminal is one', async () => {
  const { stdout } = await shell('tty; stty size; echo $TERM', {
    pty: { columns: 91, rows: 33 },
  });
  expect(stdout).toBe('/dev/pts/0\r\n33 91\r\nxterm\r\n');
});
