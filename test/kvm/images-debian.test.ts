// A real Debian in guests: its interpreters, its package manager, a server; and its files, which clones share on the host.
// Each program is read from the disk by the guest for the first time, so an interpreted kernel takes seconds for one.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, PreparedRootfs, Snapshot } from 'vmfork';
import { debianRootfs } from '../helpers/debian-image.js';
import { untilLine, warmedSnapshot } from '../helpers/images.js';
import { eventually } from '../helpers/kvm.js';
import { run } from '../helpers/oci/images.js';

const MAKE_TIMEOUT_MS = 600_000;
const RUN_TIMEOUT_MS = 300_000;
const REDIS_PORT = 6379;
const MIB = 1024 * 1024;
let rootfs: PreparedRootfs;
let snapshot: Snapshot;

beforeAll(async () => {
  rootfs = await debianRootfs();
  snapshot = await warmedSnapshot(rootfs);
}, MAKE_TIMEOUT_MS);
afterAll(() => snapshot?.destroy());

/** Runs programs as main processes of one clone, one after the other. */
async function outputs(clone: Clone, ...commands: string[][]): Promise<string[]> {
  const texts: string[] = [];
  for (const argv of commands) {
    const { exitCode, stdout, stderr } = await clone.run({ argv, keep: true });
    expect(exitCode, stderr).toBe(0);
    texts.push(stdout.trim());
  }
  return texts;
}

test(
  'its interpreters and its package manager run',
  async () => {
    await using clone = await snapshot.fork();
    const [python, perl, bash, apt] = await outputs(
      clone,
      ['python3', '-c', 'import os; print(sum(range(1000)), os.getpid(), os.getcwd())'],
      ['perl', '-e', 'print join ",", map { $_ * $_ } 1 .. 4'],
      ['bash', '-c', '[[ abc == +([a-c]) ]] && echo $LANG $BASHPID'],
      ['apt-get', '--version'],
    );
    expect(python).toBe('499500 1 /srv');
    expect(perl).toBe('1,4,9,16');
    expect(bash).toBe('C.UTF-8 1');
    expect(apt).toMatch(/^apt 2\./);
  },
  RUN_TIMEOUT_MS,
);

test(
  'redis answers from within, and stops by its signal',
  async () => {
    await using clone = await snapshot.fork();
    const container = clone.start({ argv: ['redis-server', '--save', '', '--daemonize', 'no'] });
    container.main.stdout.resume();
    const answers = () =>
      clone.connectTcp(REDIS_PORT).then(
        (tunnel) => tunnel.destroy().destroyed,
        () => false,
      );
    expect(await eventually(answers, 60_000)).toBe(true);
    const tunnel = await clone.connectTcp(REDIS_PORT);
    tunnel.write('SET key value\r\nGET key\r\n');
    await untilLine(tunnel, 'value\r');
    tunnel.destroy();
    await expect(container.stop()).resolves.toMatchObject({ exitCode: 0, signal: null });
  },
  RUN_TIMEOUT_MS,
);

test('later clones read the same files from the host’s memory', async () => {
  const readBytes = () =>
    Number(/^read_bytes: (\d+)/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1]);
  const readIn = async () => {
    await using clone = await snapshot.fork();
    const before = readBytes();
    await outputs(clone, ['sha256sum', '/usr/bin/apt-get', '/usr/lib/x86_64-linux-gnu/libm.so.6']);
    return readBytes() - before;
  };
  run('dd', `if=${rootfs.path}`, 'iflag=nocache', 'count=0', 'status=none');
  expect(await readIn()).toBeGreaterThan(MIB);
  // A host that reclaims idle pages on its own (DAMON) may make one of them read again, this program's own code included.
  expect(await eventually(async () => (await readIn()) === 0, 30_000)).toBe(true);
});
