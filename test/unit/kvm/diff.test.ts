import { describe, expect, test } from 'vitest';
import { parseDigests, parseTree, type TreeEntry } from '#src/container/tree-list.js';
import { comparePages, compareTrees } from '#src/kvm/diff.js';

const PAGE = 4096;
const owned = (...pages: [first: number, count: number][]) =>
  BigUint64Array.from(pages.flat().map((page) => BigInt(page * PAGE)));

describe('pages', () => {
  test('are counted by who owns them, and joined into runs', () => {
    const { ranges, ...counts } = comparePages({
      here: owned([0, 2], [10, 4], [20, 1]),
      there: owned([2, 1], [12, 8], [40, 1]),
      frozen: owned([1, 1], [41, 3]),
    });
    expect(counts).toEqual({ here: 5, there: 8, both: 2, frozen: 3 });
    expect(
      ranges.map(({ offsetBytes, lengthBytes }) => [offsetBytes / PAGE, lengthBytes / PAGE]),
    ).toEqual([
      [0, 3],
      [10, 11],
      [40, 4],
    ]);
  });

  test('of VMs that own nothing there are none', () => {
    const nothing = { here: owned(), there: owned(), frozen: owned() };
    const counts = { here: 0, there: 0, both: 0, frozen: 0 };
    expect(comparePages(nothing)).toEqual({ ...counts, ranges: [] });
  });
});

const file: TreeEntry = {
  mode: 0o100644,
  uid: 0,
  gid: 0,
  sizeBytes: 5,
  device: 'upper',
  inode: '7',
  changedAt: 'then',
};
const tree = (
  entries: Record<string, Partial<TreeEntry>>,
  upperDevice: string | null = 'upper',
) => ({
  entries: new Map(Object.entries(entries).map(([name, entry]) => [name, { ...file, ...entry }])),
  upperDevice,
});

describe('trees', () => {
  test('what is of the image is the same, what was written is compared', () => {
    const image = { device: 'lower' };
    const mine = tree({ image, replaced: {}, both: {}, size: {}, mode: {}, owner: {}, mine: {} });
    const theirs = tree({
      image,
      replaced: image,
      both: {},
      size: { sizeBytes: 6 },
      mode: { mode: 0o100755 },
      owner: { uid: 1 },
    });
    expect(compareTrees(mine, theirs)).toEqual({
      differ: ['size', 'mode', 'owner'],
      doubtful: ['replaced', 'both'],
    });
  });

  test('directories differ by mode and owner only, links when they were touched', () => {
    const [directory, link] = [0o040755, 0o120777];
    const later = { changedAt: 'later' };
    const mine = tree({
      d: { mode: directory, sizeBytes: 9 },
      e: { mode: directory },
      l: { mode: link },
      m: { mode: link },
    });
    const theirs = tree({
      d: { mode: directory, ...later },
      e: { mode: 0o040700 },
      l: { mode: link, ...later },
      m: { mode: link },
    });
    expect(compareTrees(mine, theirs)).toEqual({ differ: ['e', 'l'], doubtful: [] });
  });

  test('without a known upper layer all files are compared', () => {
    const image = tree({ f: { device: 'lower' } }, null);
    expect(compareTrees(image, image).doubtful).toEqual(['f']);
  });
});

describe('answers of the guest', () => {
  const line = (name: string) => `MARK81a4 1b 1 2 3 44 2023-11-14 22:13:20.5 +0000MARK${name}\n`;

  test('a listing is read, whatever names hold', () => {
    const names = ['/a', '/with\nline break', '/ä'];
    const { entries, upperDevice } = parseTree(Buffer.from(names.map(line).join('')), 'MARK');
    expect([...entries.keys()].map((name) => Buffer.from(name, 'latin1').toString())).toEqual(
      names,
    );
    expect(upperDevice).toBeNull();
    expect(entries.get('/a')).toEqual({
      mode: 0o100644,
      uid: 1,
      gid: 2,
      sizeBytes: 3,
      device: '1b',
      inode: '44',
      changedAt: '2023-11-14 22:13:20.5 +0000',
    });
  });

  test('the upper layer shows by the file that was asked for first', () => {
    const listing = parseTree(Buffer.from(['/etc/hostname', '/a'].map(line).join('')), 'MARK');
    expect(listing.upperDevice).toBe('1b');
    expect([...listing.entries.keys()]).toEqual(['/a']);
    expect(parseTree(Buffer.from(''), 'MARK').entries.size).toBe(0);
  });

  test('a listing that is none is VMF_PROTOCOL', () => {
    for (const text of ['MARKxMARK/a\n', 'MARK81a4 1 2 3 44 dMARK\n', 'MARKMARK']) {
      expect(() => parseTree(Buffer.from(text), 'MARK')).toThrow(
        expect.objectContaining({ code: 'VMF_PROTOCOL' }),
      );
    }
  });

  test('files without a digest leave a gap, the others keep their places', () => {
    const digest = (digit: string) => digit.repeat(64);
    const output = `${digest('a')}  /a\n${digest('c')}  /c\n  \n`;
    expect(parseDigests(output, ['/a', '/b', '/c', '/d'])).toEqual([
      digest('a'),
      null,
      digest('c'),
      null,
    ]);
  });
});
