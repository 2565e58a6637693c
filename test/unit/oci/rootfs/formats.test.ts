// Archives as GNU tar writes them, in every format, read back through the host's kernel and compared with the packed tree.

import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  chownSync,
  closeSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { buildRootfs, type LayerSource } from '#src/oci/rootfs/index.js';
import { archive, directory, member, paxMember } from './tar-maker.js';
import { layerOf, listTree, scratch, treeOf, withImage, withMounted } from './trees.js';

vi.setConfig({ testTimeout: 60_000 });

const MiB = 2 ** 20;
const GiB = 2 ** 30;

/** A tree with whatever the format can hold. */
function makeTree(root: string, { longNames = true, xattrs = false } = {}): void {
  mkdirSync(join(root, 'etc/deep/er'), { recursive: true });
  mkdirSync(join(root, 'empty'), { mode: 0o700 });
  writeFileSync(join(root, 'etc/hosts'), 'localhost\n');
  writeFileSync(join(root, 'etc/none'), '');
  writeFileSync(join(root, 'etc/block'), 'b'.repeat(4096));
  writeFileSync(join(root, 'etc/deep/er/large'), Buffer.alloc(300_001, 'large'));
  linkSync(join(root, 'etc/hosts'), join(root, 'etc/deep/hosts'));
  symlinkSync('../etc/hosts', join(root, 'empty/link'));
  execFileSync('mknod', [join(root, 'null'), 'c', '1', '3']);
  execFileSync('mknod', [join(root, 'disk'), 'b', '259', '65537']);
  execFileSync('mkfifo', [join(root, 'pipe')]);
  execFileSync('chmod', ['4751', join(root, 'etc/none')]);
  chownSync(join(root, 'etc/block'), 1234, 54321);
  if (longNames) {
    const long = join(root, 'n'.repeat(120), 'm'.repeat(200));
    mkdirSync(long, { recursive: true });
    writeFileSync(join(long, `f${'x'.repeat(200)}`), 'long');
    symlinkSync(`/${'target/'.repeat(40)}`, join(long, 'long-link'));
  }
  if (xattrs) {
    execFileSync('setfattr', ['-n', 'user.note', '-v', 'a=b\nc', join(root, 'etc/hosts')]);
    execFileSync('setfattr', ['-n', 'trusted.note', '-v', '0x0001ff', join(root, 'empty')]);
    const capability = '0x0100000200040000000000000000000000000000';
    execFileSync('setfattr', [
      '-n',
      'security.capability',
      '-v',
      capability,
      join(root, 'etc/block'),
    ]);
  }
  for (const path of ['etc/hosts', 'etc/deep', 'etc']) utimesSync(join(root, path), 1e9, 1e9 + 7);
}

function gnuTar(root: string, out: string, options: string[]): Buffer {
  const file = join(out, 'layer.tar');
  execFileSync('tar', ['-C', root, '--numeric-owner', ...options, '-cf', file, '.']);
  return readFileSync(file);
}

/** Formats without fractions of seconds. */
const wholeSeconds = (listing: Map<string, string>) =>
  new Map([...listing].map(([path, facts]) => [path, facts.replace(/\|(\d+)\d{9}\|/, '|$1|')]));

describe('archives of GNU tar', () => {
  for (const format of ['v7', 'ustar', 'oldgnu', 'gnu'] as const) {
    it(`reads format ${format}`, async () => {
      using source = scratch();
      using out = scratch();
      const isPlain = format === 'v7';
      makeTree(source.path, { longNames: format === 'gnu' || format === 'oldgnu' });
      if (isPlain) execFileSync('rm', ['null', 'disk', 'pipe'], { cwd: source.path });
      const tree = await treeOf([gnuTar(source.path, out.path, [`--format=${format}`])]);
      expect(wholeSeconds(tree)).toEqual(wholeSeconds(listTree(source.path)));
    });
  }

  it('reads PAX archives with times in nanoseconds, long names and extended attributes', async () => {
    using source = scratch();
    using out = scratch();
    makeTree(source.path, { xattrs: true });
    const options = ['--format=posix', '--xattrs', '--xattrs-include=*'];
    const tree = await treeOf([gnuTar(source.path, out.path, options)]);
    expect(tree).toEqual(listTree(source.path));
    expect([...tree.values()].some((facts) => facts.includes('security.capability'))).toBe(true);
  });

  for (const options of [
    ['--format=gnu'],
    ['--format=posix', '--sparse-version=0.0'],
    ['--format=posix', '--sparse-version=0.1'],
    ['--format=posix', '--sparse-version=1.0'],
  ]) {
    it(`reads sparse files of ${options.join(' ')} without storing their holes`, async () => {
      using source = scratch();
      using out = scratch();
      const data = openSync(join(source.path, 'sparse'), 'w');
      for (let part = 1; part < 40; part++) {
        writeSync(data, randomBytes(9000), 0, 9000, part * (MiB + 517));
      }
      ftruncateSync(data, 64 * MiB);
      closeSync(data);
      writeFileSync(join(source.path, 'hole'), '');
      truncateSync(join(source.path, 'hole'), 10 * MiB + 1);
      writeFileSync(join(source.path, 'after'), 'after');
      const tar = gnuTar(source.path, out.path, ['-S', ...options]);
      expect(tar.length).toBeLessThan(2 * MiB);
      expect(wholeSeconds(await treeOf([tar], {}))).toEqual(wholeSeconds(listTree(source.path)));
      await withImage([tar], () => {}, { imageBytes: 2 * MiB });
    });
  }
});

describe('files of more than 8 GiB', () => {
  for (const format of ['gnu', 'posix']) {
    it(`are read from format ${format}`, async () => {
      using source = scratch();
      using out = scratch();
      const size = 9 * GiB + 3;
      const path = join(source.path, 'huge');
      writeFileSync(path, 'begin');
      truncateSync(path, size - 3);
      appendFileSync(path, 'end');
      const tar = gnuTar(source.path, out.path, ['-S', `--format=${format}`]);
      await withImage([tar], (root) => {
        const file = openSync(join(root, 'huge'), 'r');
        const read = (position: number, length: number) => {
          const bytes = Buffer.alloc(length);
          return bytes.toString('latin1', 0, readSync(file, bytes, 0, length, position));
        };
        expect([read(0, 6), read(5 * GiB, 1), read(size - 4, 10)]).toEqual([
          'begin\0',
          '\0',
          '\0end',
        ]);
        closeSync(file);
      });
    });
  }
});

describe('a hidden file of more than 8 GiB', () => {
  it('is passed over without being stored', async () => {
    using folder = scratch();
    const output = join(folder.path, 'image');
    const piece = Buffer.alloc(4 * MiB);
    const below: LayerSource = {
      async *open() {
        yield member({ name: 'huge', size: 9 * GiB });
        for (let at = 0; at < 9 * GiB; at += piece.length) yield piece;
        yield archive({ name: 'after', content: 'after' });
      },
    };
    const layers = [below, layerOf(archive({ name: 'huge', content: 'small' }))];
    const { sizeBytes } = await buildRootfs({ layers, output });
    expect(sizeBytes).toBe(4 * 4096);
    withMounted(output, folder.path, (root) => {
      const read = (name: string) => readFileSync(join(root, name), 'utf8');
      expect([read('huge'), read('after')]).toEqual(['small', 'after']);
    });
  });
});

describe('archives of other tools', () => {
  it('reads sizes, owners and times as base-256 numbers, also negative ones', async () => {
    const tree = await treeOf([
      archive({ name: 'old', mtime: -1_000, uid: 3_000_000, gid: 4_000_000_000 }),
    ]);
    expect(tree.get('old')).toMatch(/^100644\|3000000\|4000000000\|0\|1\|0\|-1000000000000\|/);
  });

  it('lets a PAX header override the block, and a global one all blocks', async () => {
    const tree = await treeOf([
      archive(
        paxMember('g', { uid: '7', mtime: '5.25' }),
        { name: 'a' },
        { name: 'b', pax: { path: 'c/d', uid: '8', mtime: '-1.5' } },
      ),
    ]);
    expect([...tree.keys()]).toEqual(['', 'a', 'c', 'c/d']);
    expect(tree.get('a')).toMatch(/^100644\|7\|0\|0\|1\|0\|5250000000\|/);
    expect(tree.get('c/d')).toMatch(/^100644\|8\|0\|0\|1\|0\|-1500000000\|/);
  });

  it('joins the prefix of ustar, takes leading slashes off, and needs no end', async () => {
    const joined = member({
      name: 'name',
      patchBeforeSum: (header) => header.write('pre/fix', 345),
    });
    const tree = await treeOf([Buffer.concat([joined, member({ name: '/rooted//./x' })])]);
    expect([...tree.keys()]).toEqual(['', 'pre', 'pre/fix', 'pre/fix/name', 'rooted', 'rooted/x']);
  });

  it('takes names that are no UTF-8, of the longest length, and directories of many names', async () => {
    const names = Array.from(
      { length: 1500 },
      (_, index) => `d/${'\xff'.repeat(index % 200)}${index}`,
    );
    names.push(`d/${'z'.repeat(255)}`, 'd/"quoted\\name\n');
    const tree = await treeOf([archive(...names.map((name) => ({ name, pax: { path: name } })))]);
    expect([...tree.keys()].sort()).toEqual(['', 'd', ...names].sort());
  });

  it('stores link texts and attributes that fill a block or more', async () => {
    const links = [1, 3900, 3980, 4032, 4095].map((length) => ({
      name: `l${length}`,
      type: '2',
      pax: { linkpath: 'l'.repeat(length), 'SCHILY.xattr.trusted.x': 'v'.repeat(length) },
    }));
    const big = { name: 'big', content: 'x', pax: { 'SCHILY.xattr.user.x': 'v'.repeat(60_000) } };
    const full = { ...directory('full'), pax: { 'SCHILY.xattr.user.x': 'v'.repeat(4000) } };
    const facts = await withImage(
      [archive(...links, big, full, { name: 'full/child' })],
      (root) => {
        const tree = listTree(root);
        return links
          .map(({ name }) => tree.get(name)?.split('|')[7]?.length)
          .concat(tree.get('big')?.length);
      },
    );
    expect(facts.slice(0, 5)).toEqual([1, 3900, 3980, 4032, 4095]);
    expect(facts[5]).toBeGreaterThan(120_000);
  });
});
