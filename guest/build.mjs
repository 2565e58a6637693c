// Builds the guest: kernel, initramfs (the agent) and userland image, each cached by the hash of its inputs.
//   node guest/build.mjs [--json]       VMFORK_CACHE_DIR, VMFORK_KERNEL_TARBALL

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { cpio } from '../scripts/lib/cpio.mjs';
import { hashInputs, listFiles, sizeOf, writeFileAtomic } from '../scripts/lib/files.mjs';
import { cacheDir as defaultCacheDir, root } from '../scripts/lib/project.mjs';
import { Failure, main } from '../scripts/lib/run.mjs';
import { buildKernel } from './kernel/kernel.mjs';
import { cached } from './lib/cache.mjs';
import { runTool, toolVersion } from './lib/tools.mjs';
import { buildUserland } from './userland/userland.mjs';

const maxInitrdBytes = 200 * 1024;
const maxStoredBytes = 16 * 1024 * 1024;

/** Paths of the built parts; `cached` is true when nothing had to be built. */
export async function buildGuest({ onProgress = () => {}, cacheDir, kernelTarball } = {}) {
  const options = { cacheDir: cacheDir ?? defaultCacheDir(), kernelTarball, onProgress };
  const kernel = await buildKernel(options);
  const initrd = await buildInitrd(options);
  const userland = await buildUserland(options);
  const paths = {
    kernelPath: join(kernel.folder, 'vmlinux'),
    initrdPath: join(initrd.folder, 'initramfs.cpio'),
    userlandPath: join(userland.folder, 'userland.erofs'),
    imagePath: join(userland.folder, 'busybox.oci.tar'),
  };
  const manifestPath = writeManifest(options.cacheDir, { kernel, initrd, userland }, paths);
  return { ...paths, manifestPath, cached: kernel.cached && initrd.cached && userland.cached };
}

/** The initramfs: the agent as /init and the folders it mounts over. */
async function buildInitrd({ cacheDir, onProgress }) {
  const sources = listFiles('guest/agent', (path) => !/^guest\/agent\/(build|tests)\//.test(path));
  const inputs = [...sources, 'guest/build.mjs', 'scripts/lib/cpio.mjs'];
  const key = hashInputs(inputs, [await toolVersion('musl-gcc')]);
  const result = await cached({ cacheDir, name: 'initramfs', key, onProgress }, async (folder) => {
    onProgress('initramfs: compiling the agent');
    const output = `O=${join(folder, 'agent')}`;
    await runTool('make', [
      '-C',
      join(root, 'guest/agent'),
      output,
      `AGENT_BUILD=${key.slice(0, 12)}`,
    ]);
    const archive = cpio(initramfsEntries(readFileSync(join(folder, 'agent/agent'))));
    if (archive.length > maxInitrdBytes)
      throw new Failure(`the initramfs has ${archive.length} bytes`);
    writeFileSync(join(folder, 'initramfs.cpio'), archive);
    await runTool('rm', ['-rf', join(folder, 'agent')]);
  });
  return { ...result, key };
}

function initramfsEntries(agent) {
  const folders = [
    'dev',
    'dev/pts',
    'etc',
    'mnt',
    'proc',
    'root',
    'run',
    'sys',
    'tmp',
    'usr',
    'var',
  ];
  const links = ['bin', 'sbin', 'lib', 'lib64'];
  return [
    ...folders.map((path) => ({ path, mode: path === 'tmp' ? 0o1777 : 0o755 })),
    ...links.map((path) => ({ path, linkTo: `usr/${path}` })),
    { path: 'dev/console', device: [5, 1], mode: 0o600 },
    { path: 'dev/null', device: [1, 3], mode: 0o666 },
    { path: 'init', content: agent, mode: 0o755 },
  ];
}

/** manifest.json: what the parts are, so that a snapshot can name the guest that it was made of. */
function writeManifest(cacheDir, { kernel, initrd, userland }, paths) {
  const cmdline = readFileSync(join(root, 'guest/kernel/cmdline.json'), 'utf8');
  const identity = [kernel.key, initrd.key, userland.key, cmdline].join();
  const id = createHash('sha256').update(identity).digest('hex').slice(0, 32);
  const manifestPath = join(cacheDir, 'guest', `manifest-${id}.json`);
  if (existsSync(manifestPath)) {
    // The library takes the newest manifest for the guest in use.
    utimesSync(manifestPath, new Date(), new Date());
    return manifestPath;
  }
  const manifest = {
    kernelRelease: readFileSync(join(kernel.folder, 'kernel.release'), 'utf8').trim(),
    cmdline: JSON.parse(cmdline),
    kernel: describe(paths.kernelPath, kernel.key),
    systemMapPath: join(kernel.folder, 'System.map'),
    initrd: describe(paths.initrdPath, initrd.key),
    userland: describe(paths.userlandPath, userland.key),
    image: describe(paths.imagePath, userland.key),
  };
  const stored = manifest.kernel.sizeBytes + manifest.initrd.sizeBytes;
  if (stored > maxStoredBytes) throw new Failure(`kernel and initramfs have ${stored} bytes`);
  writeFileAtomic(manifestPath, `${JSON.stringify(manifest, null, 2)}\n`);
  return manifestPath;
}

function describe(path, key) {
  const sha256 = createHash('sha256').update(readFileSync(path)).digest('hex');
  return { path, key, sizeBytes: sizeOf(path), sha256 };
}

async function runCommandLine() {
  const { values } = parseArgs({ options: { json: { type: 'boolean', default: false } } });
  const started = performance.now();
  const result = await buildGuest({ onProgress: (line) => console.error(line) });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.error(`guest: ${result.cached ? 'up to date' : `built in ${seconds} s`}`);
  if (values.json) console.log(JSON.stringify(result, null, 2));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main(runCommandLine);
