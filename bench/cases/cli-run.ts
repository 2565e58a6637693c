// The whole command `vmfork run busybox true` as its user waits for it: node starts, the container runs, all ends. Warm forks
// the snapshot that `vmfork snapshot create` made, first attaches the image anew. Template and image are cached for both.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { cacheDirectory } from '#src/kvm/guest.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { busyboxRootfs } from '../harness/container-image.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';

const program = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
const IMAGE = 'busybox';
const RUN = ['run', '--no-warm', IMAGE, 'true'];

export const cliRun: BenchCase = {
  name: 'cli-run',
  summary: '`vmfork run busybox true`: wall time of the whole command, image warmed and not',
  defaultN: 10,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await busyboxRootfs();
    const warm = await cacheBesideOurs();
    const cold = await cacheBesideOurs();
    try {
      run.progress('warming the image');
      await vmfork(warm, ['snapshot', 'create', IMAGE]);
      await repeat(run, async (counts) => {
        const firstMs = await vmfork(cold, RUN);
        const warmMs = await vmfork(warm, RUN);
        if (!counts) return;
        run.samples.addMs('warm_ms', warmMs);
        run.samples.addMs('first_ms', firstMs);
      });
      return { ...guestParameters(snapshot), command: RUN.join(' ') };
    } finally {
      for (const cache of [warm, cold]) await rm(cache, { recursive: true });
    }
  },
};

/** A cache with all that ours has but warmed snapshots. */
async function cacheBesideOurs(): Promise<string> {
  const cache = await mkdtemp(join(tmpdir(), 'vmfork-bench-'));
  for (const part of ['guest', 'templates', 'images']) {
    await symlink(join(cacheDirectory(), part), join(cache, part));
  }
  return cache;
}

/** Runs the command to its end; returns the time from its start. */
async function vmfork(cache: string, args: readonly string[]): Promise<number> {
  const env = { ...process.env, VMFORK_CACHE_DIR: cache };
  const start = now();
  const child = spawn(process.execPath, [program, ...args], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const [stderr, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')]);
  const elapsedMs = msSince(start);
  if (code !== 0) throw new Error(`vmfork ${args.join(' ')}: exit code ${code}: ${stderr}`);
  return elapsedMs;
}
