// The reading side of these tests: the host's kernel mounts an image, and trees are listed in full, file by file.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildRootfs, type LayerSource, type RootfsLimits } from '#src/oci/rootfs/index.js';

/** A layer whose stream comes in pieces of this size. */
export const layerOf = (tar: Buffer, pieceBytes = 65_536): LayerSource => ({
  async *open() {
    for (let at = 0; at < tar.length; at += pieceBytes) yield tar.subarray(at, at + pieceBytes);
  },
});

/** A folder that is removed when the scope is left. */
export function scratch(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), 'vmfork-rootfs-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** Path by path everything that a user of the file system can see of it. */
export type Listing = Map<string, string>;

export interface ListOptions {
  /** Paths whose time is not compared: directories that no layer describes get the time of unpacking elsewhere. */
  ignoreTimes?: (path: string) => boolean;
}

/** Lists a tree: type, mode, owner, size, links, device, time, target, content, extended attributes. Names are byte strings. */
export function listTree(root: string, { ignoreTimes = () => false }: ListOptions = {}): Listing {
  const listing: Listing = new Map();
  const xattrs = xattrsOf(root);
  const firstNames = new Map<bigint, string>();
  const visit = (path: string) => {
    const full = Buffer.from(join(root, path), 'latin1');
    const facts = lstatSync(full, { bigint: true });
    const isDirectory = facts.isDirectory();
    const content = facts.isFile()
      ? createHash('sha256').update(readFileSync(full)).digest('hex')
      : '';
    const link = facts.isSymbolicLink() ? readlinkSync(full, 'latin1') : '';
    const first = firstNames.get(facts.ino) ?? path;
    firstNames.set(facts.ino, first);
    const parts = [
      facts.mode.toString(8),
      facts.uid,
      facts.gid,
      isDirectory ? '' : facts.size,
      isDirectory ? '' : facts.nlink,
      facts.rdev,
      ignoreTimes(path) ? '' : facts.mtimeNs,
      link,
      content,
      first,
      xattrs.get(path) ?? '',
    ];
    listing.set(path, parts.join('|'));
    if (!isDirectory) return;
    for (const name of readdirSync(full, 'latin1').sort())
      visit(path === '' ? name : `${path}/${name}`);
  };
  visit('');
  return listing;
}

function xattrsOf(root: string): Map<string, string> {
  const output = execFileSync('getfattr', ['-R', '-P', '-h', '-d', '-m', '-', '-e', 'hex', '.'], {
    cwd: root,
    encoding: 'latin1',
    maxBuffer: 1 << 28,
  });
  const found = new Map<string, string>();
  for (const block of output.split('\n\n')) {
    const [header = '', ...lines] = block.trim().split('\n');
    const path = header.replace(/^# file: /, '').replace(/^\.\/?/, '');
    if (header !== '') found.set(unquote(path), lines.sort().join(','));
  }
  return found;
}

const unquote = (path: string) =>
  path.replace(/\\(\d{3})/g, (_, digits) => String.fromCharCode(Number.parseInt(digits, 8)));

/** Builds an image from archives, bottom first, checks it with fsck.erofs, and shows it mounted by the host's kernel. */
export async function withImage<T>(
  archives: readonly Buffer[],
  look: (mountPoint: string) => T,
  limits?: Partial<RootfsLimits>,
): Promise<T> {
  using folder = scratch();
  const output = join(folder.path, 'image.erofs');
  await buildRootfs({ layers: archives.map((tar) => layerOf(tar)), output, limits });
  return withMounted(output, folder.path, look);
}

/** Mounts an image read-only through a loop device, which needs root: without it these tests fail. */
export function withMounted<T>(image: string, folder: string, look: (mountPoint: string) => T): T {
  execFileSync('fsck.erofs', [image], { stdio: 'pipe' });
  const mountPoint = mkdtempSync(join(folder, 'mnt-'));
  execFileSync('mount', ['-t', 'erofs', '-o', 'loop,ro', image, mountPoint], { stdio: 'pipe' });
  try {
    return look(mountPoint);
  } finally {
    execFileSync('umount', [mountPoint]);
  }
}

/** The tree that these layers give. */
export const treeOf = (archives: readonly Buffer[], options?: ListOptions): Promise<Listing> =>
  withImage(archives, (mountPoint) => listTree(mountPoint, options));
