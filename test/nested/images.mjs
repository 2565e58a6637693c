// The nested host's files: an initramfs, and two EROFS images laid over each other as its root.
// `base` (Node, its libraries, packages) is cached by content hash; `project` is made for each run.
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { cpio } from '../../scripts/lib/cpio.mjs';
import { listFiles } from '../../scripts/lib/files.mjs';
import { cacheDir, root } from '../../scripts/lib/project.mjs';
import { mustRun } from '../../scripts/lib/run.mjs';

// In the order of insertion; the cloud kernel has everything else built in.
const moduleNames = [
  'irqbypass',
  'kvm',
  'kvm-amd',
  'virtio_ring',
  'virtio',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'virtio_blk',
  'libcrc32c',
  'erofs',
  'overlay',
];

// Packages that no test loads; together two thirds of node_modules.
const unusedPackages = /^(@biomejs|@shikijs|typescript|typedoc.*|cmake-js|node-gyp|\.cache|\.bin)$/;

const projectFolders = ['src', 'dist', 'test', 'bench', 'examples', 'guest', 'docs'];
const projectFiles = ['package.json', 'tsconfig.json', 'vitest.config.ts', 'README.md'];

/** The initramfs: busybox, modules, init and the command to run, as one Buffer. */
export function makeInitramfs(kernel, command) {
  const found = readdirSync(join(kernel.modules, 'kernel'), { recursive: true });
  const modules = moduleNames.map((name) => {
    const path = found.find((candidate) => basename(candidate) === `${name}.ko`);
    return {
      path: `modules/${name}.ko`,
      content: readFileSync(join(kernel.modules, 'kernel', path)),
    };
  });
  return cpio([
    { path: 'bin' },
    { path: 'dev' },
    { path: 'dev/console', device: [5, 1] },
    { path: 'bin/busybox', mode: 0o755, content: readFileSync(busybox()) },
    { path: 'modules' },
    ...modules,
    { path: 'modules/order', content: moduleNames.map((name) => `${name}.ko\n`).join('') },
    { path: 'init', mode: 0o755, content: readFileSync(join(import.meta.dirname, 'init.sh')) },
    { path: 'command', content: command },
  ]);
}

const busybox = () => ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path));

/** Path of the image with Node, busybox and node_modules, built unless the cache has it. */
export async function ensureBaseImage() {
  const identity = [
    process.version,
    readFileSync(join(root, 'node_modules/.package-lock.json')),
    readFileSync(join(import.meta.dirname, 'images.mjs')),
    realpathSync('/lib/x86_64-linux-gnu/libc.so.6'),
  ];
  const hash = createHash('sha256');
  for (const part of identity) hash.update(part).update('\0');
  const path = join(cacheDir(), 'nested', `base-${hash.digest('hex').slice(0, 16)}.erofs`);
  if (!existsSync(path)) await publish(path, stageBase);
  return path;
}

async function publish(path, stage) {
  const staging = mkdtempSync(join(tmpdir(), 'vmfork-nested-'));
  try {
    await stage(staging);
    mkdirSync(dirname(path), { recursive: true });
    const temporary = `${path}.${process.pid}.tmp`;
    await mustRun('mkfs.erofs', ['--all-root', '-T0', temporary, staging]);
    renameSync(temporary, path);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

async function stageBase(staging) {
  for (const folder of ['bin', 'etc', 'root', 'usr/bin', 'project', 'cache']) {
    mkdirSync(join(staging, folder), { recursive: true });
  }
  copy(realpathSync(process.execPath), join(staging, 'usr/bin/node'));
  copy(busybox(), join(staging, 'bin/busybox'));
  await mustRun('/bin/busybox', ['--install', '-s', join(staging, 'bin')]);
  const modules = join(root, 'node_modules');
  for (const name of readdirSync(modules)) {
    if (!unusedPackages.test(name))
      copy(join(modules, name), join(staging, 'project/node_modules', name));
  }
  // What the library itself starts, for scratch disks.
  const mkfs = realpathSync('/usr/sbin/mkfs.ext4');
  copy(mkfs, join(staging, 'bin/mkfs.ext4'));
  const addons = listFilesAbsolute(modules, '.node');
  for (const library of await sharedLibraries([process.execPath, mkfs, ...addons])) {
    copy(realpathSync(library), join(staging, library));
  }
}

const listFilesAbsolute = (top, suffix) =>
  readdirSync(top, { recursive: true })
    .filter((path) => path.endsWith(suffix))
    .map((path) => join(top, path));

/** What the dynamic linker would load for these files, and the linker itself. */
async function sharedLibraries(files) {
  const libraries = new Set();
  for (const file of files) {
    const listing = await mustRun('ldd', [file]);
    for (const [, path] of listing.matchAll(/(?:=>\s*|^\s*)(\/\S+)/gm)) libraries.add(path);
  }
  return [...libraries].filter((path) => !files.includes(path));
}

/** Path of a fresh image with the built project and the guest's artefacts; the caller removes it. */
export async function makeProjectImage(path, guestFiles) {
  await publish(path, (staging) => {
    const project = join(staging, 'project');
    for (const name of [...projectFolders, ...projectFiles]) {
      if (existsSync(join(root, name))) copy(join(root, name), join(project, name));
    }
    for (const addon of listFiles('build/Release', (file) => /\/\w+\.node$/.test(file))) {
      copy(join(root, addon), join(project, addon));
    }
    for (const [source, target] of guestFiles) copy(source, join(staging, target));
  });
}

function copy(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  cpSync(from, to, { recursive: true, verbatimSymlinks: true });
}
