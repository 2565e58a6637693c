// A container from nothing to its exit code: `true` of the built-in image. Cold attaches the image after the fork, warmed
// forks a template in which it is attached and has run `true` before. Both end with the machine gone, as run() does.

import type { Rootfs, Snapshot } from '#src/index.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { busyboxRootfs, warmedSnapshot } from '../harness/container-image.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';

const ARGV = ['true'];

export const container: BenchCase = {
  name: 'container',
  summary:
    '`true` in a container: call of fork to exit code, image attached after the fork or before',
  defaultN: 30,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    const rootfs = await busyboxRootfs();
    await using warmed = await warmedSnapshot(snapshot, rootfs, ARGV);
    await repeat(run, async (counts) => {
      const cold = await containerMs(snapshot, rootfs);
      const warm = await containerMs(warmed);
      if (!counts) return;
      run.samples.addMs('cold_ms', cold);
      run.samples.addMs('warmed_ms', warm);
    });
    return { ...guestParameters(snapshot), command: ARGV.join(' ') };
  },
};

async function containerMs(snapshot: Snapshot, rootfs?: Rootfs): Promise<number> {
  const start = now();
  await using clone = await snapshot.fork();
  if (rootfs) await clone.attach(rootfs);
  const { exitCode } = await clone.run({ argv: ARGV });
  if (exitCode !== 0) throw new Error(`${ARGV.join(' ')} exited with ${exitCode}`);
  return msSince(start);
}
