// A read-only disk with Debian's python3 and a program that waits at a fork point, made once and kept in the cache.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheDirectory } from '#src/kvm/guest.js';

const run = promisify(execFile);

// python3.11 of Debian 12 and the libraries that its interpreter and its standard library load.
const PACKAGES = [
  'python3.11-minimal',
  'libpython3.11-minimal',
  'libpython3.11-stdlib',
  'libbz2-1.0',
  'libc6',
  'libcrypt1',
  'libexpat1',
  'libffi8',
  'liblzma5',
  'libssl3',
  'libuuid1',
  'zlib1g',
];

/** What both ways of the comparison import. */
export const IMPORTS = 'import json, re, hashlib, http.server';
/** The answer of both; `argv` is what they were given. */
export const ANSWER = "json.dumps([re.sub('a', 'b', argv[0]), hashlib.sha256(b'x').hexdigest()])";

// It answers once before it waits, so that nothing is left to be made at the first use.
const WORKER = `${IMPORTS}
from fork_point import fork_point
def answer(argv):
    return ${ANSWER}.encode()
answer(['again'])
argv, env, data, stream = fork_point('python')
stream.write(answer(argv))
stream.close()
`;

/** Path of the image; packages come from the machine's apt sources. */
export async function pythonImage(progress: (text: string) => void): Promise<string> {
  const key = createHash('sha256')
    .update(JSON.stringify([PACKAGES, WORKER]))
    .digest('hex');
  const folder = join(cacheDirectory(), 'bench');
  const image = join(folder, `python3-${key.slice(0, 16)}.erofs`);
  if (existsSync(image)) return image;
  progress('python3: downloading its packages, making the disk');
  await mkdir(folder, { recursive: true });
  const work = await mkdtemp(join(tmpdir(), 'vmfork-python-'));
  try {
    const tree = join(work, 'tree');
    await unpackPackages(work, tree);
    await compileModules(tree);
    for (const name of ['dev', 'proc', 'run', 'tmp', 'srv']) {
      await mkdir(join(tree, name), { recursive: true });
    }
    await copyFile('examples/fork-point.py', join(tree, 'srv/fork_point.py'));
    await writeFile(join(tree, 'srv/worker.py'), WORKER);
    await run('mkfs.erofs', ['--all-root', '-T0', join(work, 'image'), tree]);
    await copyFile(join(work, 'image'), `${image}.${process.pid}`);
    await rename(`${image}.${process.pid}`, image);
  } finally {
    await rm(work, { recursive: true });
  }
  return image;
}

/** What python3's package does when it is installed. The image has no times, so the compiled files must not ask for them. */
async function compileModules(tree: string): Promise<void> {
  const compile = ['-m', 'compileall', '-q', '--invalidation-mode', 'unchecked-hash'];
  await run('chroot', [tree, '/usr/bin/python3.11', ...compile, '/usr/lib/python3.11']);
  await rm(join(tree, 'usr/share'), { recursive: true });
}

async function unpackPackages(work: string, tree: string): Promise<void> {
  await run('apt-get', ['download', ...PACKAGES], { cwd: work });
  const archives = (await readdir(work)).filter((name) => name.endsWith('.deb'));
  for (const archive of archives) await run('dpkg-deb', ['-x', join(work, archive), tree]);
}
