// Python that was started and has imported what it needs in the template, against starting it in a clone: call of fork to
// the first result, both in the same run. What python reads is in the page cache that all clones share, for both.

import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { type Clone, findGuest, type Snapshot, Template } from '#src/index.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { ANSWER, IMPORTS, pythonImage } from '../harness/python-image.js';
import { guestParameters, MEMORY_MIB, repeat } from './default-guest.js';

const ROOT = '/mnt';
const PYTHON = ['chroot', ROOT, '/usr/bin/python3.11'];
const ENV = { PATH: '/usr/bin:/usr/sbin', PYTHONDONTWRITEBYTECODE: '1' };
const MOUNT = [
  `mount -t erofs -o ro /dev/vdb ${ROOT}`,
  ...['dev', 'proc', 'run'].map((name) => `mount -o bind /${name} ${ROOT}/${name}`),
].join(' && ');
const COLD = `import sys\n${IMPORTS}\nargv = sys.argv[1:]\nprint(${ANSWER}, end='')`;

export const warmPython: BenchCase = {
  name: 'warm-python',
  summary: 'python3 waiting at a fork point, against starting it in a clone: fork to first result',
  defaultN: 10,
  async measure(run) {
    await using snapshot = await warmSnapshot(await pythonImage(run.progress), run.progress);
    await repeat(run, async (counts) => {
      const warm = await forkPointMs(snapshot);
      const { startMs, execMs } = await coldMs(snapshot);
      if (!counts) return;
      run.samples.addMs('fork_point_ms', warm);
      run.samples.addMs('start_ms', startMs);
      run.samples.addMs('start_exec_ms', execMs);
      run.samples.add('ratio', 'x', startMs / warm);
    });
    return { ...guestParameters(snapshot), memory_mib: MEMORY_MIB, imports: IMPORTS };
  },
};

/** A template in which python has imported what it needs, which brings its files into the page cache, and waits. */
async function warmSnapshot(image: string, progress: (text: string) => void): Promise<Snapshot> {
  progress('template: booting, mounting python, importing');
  const diskPaths = [findGuest().userlandPath, image];
  await using template = await Template.boot({ memoryMiB: MEMORY_MIB, diskPaths });
  await must(template.exec(['sh', '-c', MOUNT]));
  template.spawn([...PYTHON, '/srv/worker.py'], { env: ENV, stdin: 'ignore' }).unref();
  await template.waitForForkPoint({ name: 'python' });
  return await template.snapshot();
}

async function must(result: ReturnType<Clone['exec']>): Promise<string> {
  const { exitCode, stdout, stderr } = await result;
  if (exitCode !== 0) throw new Error(`exit code ${exitCode}: ${stderr}`);
  return stdout.toString();
}

async function forkPointMs(snapshot: Snapshot): Promise<number> {
  const start = now();
  await using clone = await snapshot.fork({ payload: { argv: ['banana'] } });
  check(await text(clone.forkPoint as Readable));
  return msSince(start);
}

async function coldMs(snapshot: Snapshot): Promise<{ startMs: number; execMs: number }> {
  const start = now();
  await using clone = await snapshot.fork();
  const forked = now();
  check(await must(clone.exec([...PYTHON, '-c', COLD, 'banana'], { env: ENV })));
  return { startMs: msSince(start), execMs: msSince(forked) };
}

function check(answer: string): void {
  if (!answer.startsWith('["bbnbnb", "2d711642')) throw new Error(`python answered ${answer}`);
}
