// Builds the built-in userland: a read-only EROFS image that the agent mounts at /usr. It holds a static busybox under
// all its names, and of our own bin/true and bin/vmfork-point.
import {
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hashInputs, listFiles } from '../../scripts/lib/files.mjs';
import { root } from '../../scripts/lib/project.mjs';
import { Failure } from '../../scripts/lib/run.mjs';
import { readSegments } from '../kernel/elf.mjs';
import { cached } from '../lib/cache.mjs';
import { runTool, toolVersion } from '../lib/tools.mjs';
import { makeBusyboxImage } from './image.mjs';

const busyboxPaths = ['/bin/busybox', '/usr/bin/busybox', '/bin/busybox.static'];
const ptInterp = 3;
/** Any constant will do: it keeps the image reproducible. */
const imageUuid = '5d1fb1a4-6a0c-4d8e-9c39-3e1d2f0b7a61';

/** { folder, cached, key }: userland.erofs and busybox.oci.tar are in the folder. */
export async function buildUserland({ cacheDir, onProgress }) {
  const busybox = findBusybox();
  const inputs = ['guest/userland', 'guest/forkpoint'].flatMap((folder) => listFiles(folder));
  inputs.push('guest/lib/tools.mjs');
  const key = hashInputs(inputs, [
    readFileSync(busybox, 'latin1'),
    await toolVersion('gcc'),
    await toolVersion('musl-gcc'),
    await toolVersion('mkfs.erofs', '--help'),
  ]);
  const result = await cached({ cacheDir, name: 'userland', key, onProgress }, async (folder) => {
    onProgress('userland: building the image');
    const tree = join(folder, 'tree');
    const applets = await listApplets(busybox);
    await populate(tree, busybox, applets);
    await makeImage(tree, join(folder, 'userland.erofs'));
    await rm(tree, { recursive: true });
    await makeBusyboxImage(busybox, applets, join(folder, 'busybox.oci.tar'));
  });
  return { ...result, key };
}

function findBusybox() {
  for (const path of busyboxPaths.filter((candidate) => existsSync(candidate))) {
    if (!readSegments(readFileSync(path)).some(({ type }) => type === ptInterp)) return path;
  }
  throw new Failure(`no static busybox at ${busyboxPaths.join(', ')}; install busybox-static`);
}

async function populate(tree, busybox, applets) {
  for (const name of ['bin', 'sbin', 'lib', 'lib64', 'share'])
    mkdirSync(join(tree, name), { recursive: true });
  const program = join(tree, 'bin/busybox');
  writeFileSync(program, readFileSync(busybox), { mode: 0o755 });
  // Hard links, not symbolic ones: the guest's kernel resolves one name less for each command.
  for (const applet of mergeUsr(applets)) {
    if (!existsSync(join(tree, applet))) linkSync(program, join(tree, applet));
  }
  rmSync(join(tree, 'bin/true'), { force: true });
  await compileTrue(join(tree, 'bin/true'));
  await compileForkPoint(join(tree, 'bin/vmfork-point'));
}

async function listApplets(busybox) {
  const applets = [];
  await runTool(busybox, ['--list-full'], { onLine: (line) => applets.push(line) });
  return applets.sort();
}

/** Paths below /usr: busybox lists bin/, sbin/, usr/bin/ and usr/sbin/, which a merged /usr folds into two. */
function mergeUsr(applets) {
  const paths = applets.map((applet) => applet.replace(/^usr\//, ''));
  return paths.filter((path) => /^s?bin\/[^/]+$/.test(path)).sort();
}

async function compileTrue(output) {
  const source = join(root, 'guest/userland/true.c');
  const link = ['-nostdlib', '-static', '-no-pie', '-s', '-Wl,-z,noseparate-code,--build-id=none'];
  const warnings = ['-std=c11', '-Wall', '-Wextra', '-Werror', '-Wno-missing-prototypes'];
  const lean = [
    '-Os',
    '-fno-asynchronous-unwind-tables',
    '-fno-stack-protector',
    '-fcf-protection=none',
  ];
  await runTool('gcc', [...warnings, ...lean, ...link, '-o', output, source]);
}

async function compileForkPoint(output) {
  const source = join(root, 'guest/forkpoint/vmfork-point.c');
  const warnings = ['-std=c11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror'];
  const lean = ['-Os', '-static', '-no-pie', '-s', '-fno-asynchronous-unwind-tables'];
  await runTool('musl-gcc', [...warnings, ...lean, '-Wl,--build-id=none', '-o', output, source]);
}

async function makeImage(tree, image) {
  await runTool('mkfs.erofs', ['-T0', '-U', imageUuid, '--all-root', image, tree]);
  if (statSync(image).size % 4096 !== 0) throw new Failure('mkfs.erofs left a partial block');
}
