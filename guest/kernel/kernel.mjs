// Builds the guest kernel: unpack the source, apply patches/, configure, compile vmlinux, keep what a loader needs.
import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { hashInputs, listFiles, writeFileAtomic } from '../../scripts/lib/files.mjs';
import { root } from '../../scripts/lib/project.mjs';
import { Failure } from '../../scripts/lib/run.mjs';
import { cached } from '../lib/cache.mjs';
import { runTool, toolVersion } from '../lib/tools.mjs';
import { compactElf } from './elf.mjs';
import { readFragments, render, unmet } from './kconfig.mjs';

const defaultTarball = '/usr/src/linux-source-6.1.tar.xz';
const patchFolder = join(root, 'guest/kernel/patches');
const progressEveryMs = 5_000;

/** Fixed identity, so that the same inputs give the same bytes. */
const buildEnvironment = {
  KBUILD_BUILD_TIMESTAMP: '2026-01-01',
  KBUILD_BUILD_USER: 'vmfork',
  KBUILD_BUILD_HOST: 'vmfork',
  KBUILD_BUILD_VERSION: '1',
  LC_ALL: 'C',
};

/** Copies and fills become REP MOVSQ/STOSQ: half the cost of stores where ring 0 is interpreted, equal elsewhere. */
const compilerFlags = 'KCFLAGS=-mstringop-strategy=rep_8byte';
/** An empty LOCALVERSION keeps "+" out of the version when the cache lies inside some git work tree. */
const makeArguments = ['ARCH=x86_64', compilerFlags, 'LOCALVERSION='];

/** { folder, cached, key }: vmlinux, System.map, config and kernel.release are in the folder. */
export async function buildKernel({ cacheDir, kernelTarball, onProgress }) {
  const tarball = findTarball(kernelTarball);
  // The command line is used at boot only: the manifest has it, the kernel does not depend on it.
  const key = hashInputs(
    listFiles('guest/kernel', (path) => !path.endsWith('cmdline.json')),
    [await tarballDigest(cacheDir, tarball), await toolVersion('gcc'), await toolVersion('ld')],
  );
  const result = await cached({ cacheDir, name: 'kernel', key, onProgress }, async (folder) => {
    await compileInto(folder, tarball, onProgress);
  });
  return { ...result, key };
}

function findTarball(option) {
  const tarball = option ?? (process.env.VMFORK_KERNEL_TARBALL || defaultTarball);
  if (existsSync(tarball)) return tarball;
  throw new Failure(
    `no kernel source at ${tarball}; install linux-source-6.1 (Debian) or set VMFORK_KERNEL_TARBALL`,
  );
}

/** sha256 of the tarball, remembered by path, size and time: reading 140 MB takes half a second. */
async function tarballDigest(cacheDir, tarball) {
  const { size, mtimeMs } = statSync(tarball);
  const id = createHash('sha256').update(`${tarball}\0${size}\0${mtimeMs}`).digest('hex');
  const memo = join(cacheDir, 'guest', `tarball-${id.slice(0, 32)}.sha256`);
  if (existsSync(memo)) return readFileSync(memo, 'utf8');
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(tarball)) hash.update(chunk);
  const digest = hash.digest('hex');
  writeFileAtomic(memo, digest);
  return digest;
}

async function compileInto(folder, tarball, onProgress) {
  const tree = join(folder, 'tree');
  mkdirSync(tree);
  onProgress(`kernel: unpacking ${tarball}`);
  await runTool('tar', ['-xf', tarball, '-C', tree, '--strip-components=1']);
  for (const patch of readdirSync(patchFolder).sort()) {
    onProgress(`kernel: applying ${patch}`);
    await runTool('patch', [
      '-p1',
      '--batch',
      '--forward',
      '-d',
      tree,
      '-i',
      join(patchFolder, patch),
    ]);
  }
  await configure(tree, folder, onProgress);
  await compile(tree, onProgress);
  keepResults(tree, folder);
  await rm(tree, { recursive: true });
}

async function configure(tree, folder, onProgress) {
  onProgress('kernel: configuring');
  const requests = readFragments();
  const requestPath = join(folder, 'requests');
  writeFileSync(requestPath, render(requests));
  await runTool(
    'make',
    ['-s', ...makeArguments, `KCONFIG_ALLCONFIG=${requestPath}`, 'allnoconfig'],
    {
      cwd: tree,
      env: buildEnvironment,
    },
  );
  const missing = unmet(requests, readFileSync(join(tree, '.config'), 'utf8'));
  if (missing.length > 0) {
    throw new Failure(`the kernel's configuration did not take:\n  ${missing.join('\n  ')}`);
  }
}

async function compile(tree, onProgress) {
  const started = Date.now();
  let objects = 0;
  let reported = started;
  const onLine = (line) => {
    if (/^ {2}(CC|AS) /.test(line)) objects++;
    if (/^ {2}LD +vmlinux/.test(line)) onProgress(`kernel: linking ${objects} objects`);
    if (Date.now() - reported < progressEveryMs) return;
    reported = Date.now();
    onProgress(`kernel: ${objects} objects compiled, ${Math.round((reported - started) / 1000)} s`);
  };
  const jobs = `-j${availableParallelism()}`;
  await runTool('make', [jobs, ...makeArguments, 'vmlinux'], {
    cwd: tree,
    env: buildEnvironment,
    onLine,
  });
}

function keepResults(tree, folder) {
  const copy = (from, to) => writeFileSync(join(folder, to), readFileSync(join(tree, from)));
  writeFileSync(join(folder, 'vmlinux'), compactElf(readFileSync(join(tree, 'vmlinux'))));
  copy('System.map', 'System.map');
  copy('.config', 'config');
  copy('include/config/kernel.release', 'kernel.release');
}
