// A root filesystem for a clone that was forked without one: call of fork() until it is mounted below an overlay in memory,
// and the part of it from the call of attach() on. The image is built and in the host's page cache; the guest reads what it needs of it from its drive.

import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { busyboxRootfs } from '../harness/container-image.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';

export const attach: BenchCase = {
  name: 'attach',
  summary: 'a built image attached to a fresh clone: call of fork to mounted root filesystem',
  defaultN: 30,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    const rootfs = await busyboxRootfs();
    await repeat(run, async (counts) => {
      const start = now();
      await using clone = await snapshot.fork();
      const forked = now();
      await clone.attach(rootfs);
      if (!counts) return;
      run.samples.addMs('mount_ms', msSince(forked));
      run.samples.addMs('attach_ms', msSince(start));
    });
    return { ...guestParameters(snapshot), image_bytes: rootfs.sizeBytes };
  },
};
