// What a clone pays for reading files of its image that were read in the template before the snapshot: 20 clones that live
// at once and read the same 20 MiB, one after the other, each paused when it has. For comparison one clone whose template had the image attached, but not read.

import type { Clone, Snapshot } from '#src/index.js';
import type { BenchCase } from '../harness/case.js';
import { DATA, dataRootfs, warmedSnapshot } from '../harness/container-image.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const CLONES = 20;
const KIB = 1024;
const READ = ['dd', `if=${DATA.path}`, 'of=/dev/null', 'bs=64k'];

export const pageSharing: BenchCase = {
  name: 'page-sharing',
  summary: '20 clones that each read 20 MiB of one image: memory of their own (n = rounds)',
  defaultN: 1,
  async measure(run) {
    await using base = await openSnapshot(run);
    const rootfs = await dataRootfs();
    run.progress('template: attaching the image, reading it');
    await using unread = await warmedSnapshot(base, rootfs, ['dd', 'if=/dev/null', 'of=/dev/null']);
    await using read = await warmedSnapshot(base, rootfs, READ);
    for (let round = 0; round < run.n; round++) {
      for (const { privateKiB, sharedKiB } of await readIn(read, CLONES)) {
        run.samples.add('private_kib', 'KiB', privateKiB);
        run.samples.add('shared_kib', 'KiB', sharedKiB);
      }
      for (const { privateKiB } of await readIn(unread, 1)) {
        run.samples.add('private_unread_kib', 'KiB', privateKiB);
      }
      run.progress(`${round + 1} of ${run.n}`);
    }
    return { ...guestParameters(base), clones: CLONES, read_mib: DATA.sizeMiB, rounds: run.n };
  },
};

interface Sizes {
  privateKiB: number;
  sharedKiB: number;
}

/** Forks, reads in one clone after the other while all live, and says what each holds then. */
async function readIn(snapshot: Snapshot, count: number): Promise<Sizes[]> {
  const clones = await snapshot.fork({ count });
  try {
    const sizes: Sizes[] = [];
    for (const clone of clones) sizes.push(await sizesAfterReading(clone));
    return sizes;
  } finally {
    await Promise.all(clones.map((clone) => clone.destroy()));
  }
}

async function sizesAfterReading(clone: Clone): Promise<Sizes> {
  const { exitCode, stderr } = await clone.run({ argv: READ, entrypoint: [], keep: true });
  if (exitCode !== 0) throw new Error(`dd: exit code ${exitCode}: ${stderr}`);
  const { privateBytes, sharedBytes } = await clone.memory();
  await clone.pause(); // Its clock would go on taking processor time from the others.
  return { privateKiB: privateBytes / KIB, sharedKiB: sharedBytes / KIB };
}
