// A real Debian in guests: its interpreters, its package manager, a server; and its files, which clones share on the host.
// Each program is read from the disk by the guest for the first time, so an interpreted kernel takes seconds for one.
import { readdirSync, readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, PreparedRootfs, Snapshot } from 'vmfork';
import { debianRootfs } from '../helpers/debian-image.js';
import { bytesOf, untilLine, untilText, warmedSnapshot } from '../helpers/images.js';
import { destroyAll, eventually } from '../helpers/kvm.js';
import { run } from '../helpers/oci/images.js';
import { archive } from '../unit/oci/rootfs/tar-maker.js';

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
    const [perl, bash, apt] = await outputs(
      clone,
      ['perl', '-e', 'print join ",", map { $_ * $_ } 1 .. 4'],
      ['bash', '-c', '[[ abc == +([a-c]) ]] && echo $LANG $BASHPID $PWD'],
      ['apt-get', '--version'],
    );
    expect(perl).toBe('1,4,9,16');
    expect(bash).toBe('C.UTF-8 1 /srv');
    expect(apt).toMatch(/^apt 2\./);
  },
  RUN_TIMEOUT_MS,
);

test(
  'redis answers from within, and stops by its signal',
  async () => {
    await using clone = await snapshot.fork();
    const container = clone.start({ argv: ['redis-server', '--save', '', '--daemonize', 'no'] });
    await untilText(container.main.stdout, 'Ready to accept connections');
    container.main.stdout.resume();
    const tunnel = await clone.connectTcp(REDIS_PORT);
    tunnel.write('SET key value\r\nGET key\r\n');
    await untilLine(tunnel, 'value\r');
    tunnel.destroy();
    await expect(container.stop()).resolves.toMatchObject({ exitCode: 0, signal: null });
  },
  RUN_TIMEOUT_MS,
);

// A container has the agent's socket at a path of its own.
const WORKER = `import os
client = {'__name__': 'client'}
exec(open('/srv/fork-point.py').read(), client)
argv, env, data, stream = client['fork_point']('warm', '/run/vmfork.sock')
own = (sum(range(1000)), os.getpid(), os.getcwd())
stream.write(b'%a %a %a %a' % (argv, env, data, own))
stream.close()`;

test(
  'python that waits at a fork point goes on in each clone with its payload',
  async () => {
    await using template = await snapshot.fork();
    const content = readFileSync('examples/fork-point.py');
    const client = archive({ name: 'fork-point.py', content });
    await template.copyIn('/srv', Readable.from([client]));
    template.start({ argv: ['python3', '-c', WORKER], keep: true });
    await template.waitForForkPoint({ name: 'warm' });
    await using warm = await template.snapshot();
    const data = Buffer.from('\0bytes');
    const payload = (index: number) => ({ argv: [`job ${index}`], env: { A: 'b=c' }, data });
    const clones = await warm.fork({ count: 2, payload });
    const answers = await Promise.all(
      clones.map(async ({ forkPoint }) => forkPoint && String(await bytesOf(forkPoint))),
    );
    const rest = "{'A': 'b=c'} b'\\x00bytes' (499500, 1, '/srv')";
    expect(answers).toEqual([`['job 0'] ${rest}`, `['job 1'] ${rest}`]);
    await destroyAll(clones);
  },
  RUN_TIMEOUT_MS,
);

/** From the host's storage, by the threads that serve guests' disks; other threads read code and guests' memory. */
function bytesReadForDisks(): number {
  const inTask = (task: string, file: string) =>
    readFileSync(`/proc/self/task/${task}/${file}`, 'utf8');
  return readdirSync('/proc/self/task')
    .filter((task) => /^vmfork-(disk|loop)/.test(inTask(task, 'comm')))
    .reduce((sum, task) => sum + Number(/^read_bytes: (\d+)/m.exec(inTask(task, 'io'))?.[1]), 0);
}

test('later clones read the same files from the host’s memory', async () => {
  const readIn = async () => {
    await using clone = await snapshot.fork();
    const before = bytesReadForDisks();
    await outputs(clone, ['sha256sum', '/usr/bin/apt-get', '/usr/lib/x86_64-linux-gnu/libm.so.6']);
    return bytesReadForDisks() - before;
  };
  run('dd', `if=${rootfs.path}`, 'iflag=nocache', 'count=0', 'status=none');
  const first = await readIn();
  expect(first).toBeGreaterThan(MIB);
  // Not nothing: the host reads ahead of what is read, and may have given a page back meanwhile.
  expect(await eventually(async () => (await readIn()) < first / 10, 30_000)).toBe(true);
});
