// Archives made to do harm, or damaged: each is refused with a typed error that says where, and leaves nothing behind.

import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { VmforkError } from '#src/errors.js';
import { buildRootfs, type LayerSource, type RootfsLimits } from '#src/oci/rootfs/index.js';
import { archive, directory, END, hardlink, member, paxMember, symlink } from './tar-maker.js';
import { layerOf, scratch } from './trees.js';

/** What building these layers fails with; the folder of the output must be as it was. */
async function failureOf(
  layers: readonly LayerSource[],
  limits?: Partial<RootfsLimits>,
  signal?: AbortSignal,
) {
  using folder = scratch();
  const output = join(folder.path, 'image');
  writeFileSync(output, 'what was there before');
  const failure = await buildRootfs({ layers, output, limits, signal }).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(readdirSync(folder.path)).toEqual(['image']);
  if (!VmforkError.is(failure)) throw new Error('built, or failed otherwise', { cause: failure });
  return failure;
}

const sparse = (records: Record<string, string>, content: string) =>
  archive({
    name: 's',
    pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', ...records },
    content,
  });

const map = (text: string) => text.padEnd(512, '\0');

const loop = Array.from({ length: 3 }, (_, index) => symlink(`l${index}`, `l${(index + 1) % 3}`));

const INVALID: Record<string, Buffer> = {
  'a name with ..': archive({ name: 'a/../../etc/passwd' }),
  'an absolute name with ..': archive({ name: '/../x' }),
  'a whiteout of ..': archive({ name: 'a/.wh...' }),
  'a whiteout of .': archive({ name: '.wh..' }),
  'a whiteout of nothing': archive({ name: '.wh.' }),
  'a PAX name with a zero byte': archive({ pax: { path: 'a\0b' } }),
  'a PAX name with ..': archive({ pax: { path: '../b' } }),
  'a name of 256 bytes': archive({ pax: { path: 'n'.repeat(256) } }),
  'a path of 4,096 bytes': archive({ pax: { path: 'n/'.repeat(2048) } }),
  'a link text of 4,096 bytes': archive({ type: '2', pax: { linkpath: 'n'.repeat(4096) } }),
  'a link text with a zero byte': archive({ type: '2', pax: { linkpath: 'a\0b' } }),
  'a symbolic link to nothing': archive({ type: '2' }),
  'a hard link to nothing': archive(hardlink('a', 'none')),
  'a hard link to itself': archive(hardlink('a', 'a')),
  'a hard link out of the tree': archive(hardlink('a', '../../etc/passwd')),
  'a hard link to a file of the host': archive(hardlink('a', '/etc/passwd')),
  'a hard link to a file of the host through a symbolic link': archive(
    symlink('l', '/etc'),
    hardlink('a', 'l/passwd'),
  ),
  'a hard link to a directory': archive(directory('d'), hardlink('a', 'd')),
  'a hard link to the root': archive(hardlink('a', './')),
  'a parent that is a file': archive({ name: 'a' }, { name: 'a/b' }),
  'a loop of symbolic links': archive(...loop, { name: 'l0/x' }),
  'a root that is a file': archive({ name: './', type: '2', link: 'x' }),
  'a negative size': archive({ size: -1 }),
  'a size beyond 2^53': archive({ size: Buffer.from('8000000100000000000000ff', 'hex') }),
  'a size that is no number': archive({ size: Buffer.from('9999999999\0\0') }),
  'a negative PAX size': archive({ pax: { size: '-5' } }),
  'an owner beyond 32 bits': archive({ pax: { uid: '4294967295' } }),
  'a device number out of range': archive({ type: '3', major: 5000 }),
  'a device number beyond 20 bits': archive({ type: '4', minor: 2 ** 20 }),
  'a time that is none': archive({ pax: { mtime: '1e9' } }),
  'a wrong checksum': archive({ patch: (header) => header.write('x', 0) }),
  'an unknown type': archive({ type: 'Z' }),
  'a PAX record that is too long': archive(member({ type: 'x', content: '99 path=a\n' }), {}),
  'a PAX record without end': archive(member({ type: 'x', content: '9 path=ab' }), {}),
  'a PAX record without key': archive(member({ type: 'x', content: '6 =ab\n' }), {}),
  'a PAX record of length 0': archive(member({ type: 'x', content: '0 path=a\n' }), {}),
  'a truncated header': archive({}).subarray(0, 300),
  'truncated content': member({ content: 'x'.repeat(1000) }).subarray(0, 900),
  'content without its padding': member({ content: 'x'.repeat(1000) }).subarray(0, 1512),
  'a PAX header without a member': paxMember('x', { path: 'a' }),
  'a lone block of zeros': Buffer.concat([Buffer.alloc(512), member({}), END]),
  'no archive at all': Buffer.from('PK\x03\x04'.repeat(600)),
  'an extended attribute with a zero byte in its name': archive({
    pax: { 'SCHILY.xattr.user.\0': 'v' },
  }),
  'an extended attribute of 65,536 bytes': archive({
    pax: { 'SCHILY.xattr.user.x': 'v'.repeat(65_536) },
  }),
  'a sparse map beyond the file': sparse(
    { 'GNU.sparse.realsize': '10' },
    `${map('1\n8\n4\n')}data`,
  ),
  'a sparse map with overlaps': sparse(
    { 'GNU.sparse.realsize': '10' },
    `${map('2\n0\n2\n1\n2\n')}data`,
  ),
  'a sparse map of other length': sparse(
    { 'GNU.sparse.realsize': '10' },
    `${map('1\n0\n3\n')}data`,
  ),
  'a sparse map that is none': sparse({ 'GNU.sparse.realsize': '10' }, map('1\nx\n3\n')),
  'a sparse map longer than the content': sparse(
    { 'GNU.sparse.realsize': '10' },
    map(`${'1\n'.repeat(256)}`),
  ),
  'a sparse file without size': sparse({}, map('0\n')),
  'a map without size': archive({ pax: { 'GNU.sparse.map': '0,1' }, content: 'a' }),
  'a name of a sparse file that is none': archive({ pax: { 'GNU.sparse.name': 'b' } }),
  'a directory with content': archive({ name: 'd/', content: 'a' }),
  'an old sparse map that is none': archive({
    type: 'S',
    patchBeforeSum: (header) => header.write('zz', 386),
  }),
};

describe('hostile and damaged layers', () => {
  for (const [name, tar] of Object.entries(INVALID)) {
    it(`refuses ${name}`, async () => {
      const failure = await failureOf([layerOf(archive({ name: 'below' })), layerOf(tar, 700)]);
      expect(failure.code).toBe('VMF_LAYER_INVALID');
      expect(failure.message).toMatch(/layer 1, offset \d+/);
    });
  }

  it('names layer, offset and entry', async () => {
    const { message } = await failureOf([
      layerOf(archive({ name: 'fine' }, hardlink('bad\n', 'none'))),
    ]);
    expect(message).toContain(
      'layer 0, offset 512, entry "bad\\n": a hard link to a file that does not exist',
    );
  });

  const manyNames = archive(...Array.from({ length: 40 }, (_, index) => ({ name: `f${index}` })));
  /** Headers for one member that is long in coming. */
  const manyHeaders = (records: Record<string, string>) =>
    Array.from({ length: 40 }, () => paxMember('x', records));
  const holes = { 'GNU.sparse.realsize': String(2 ** 40) };
  const LIMITS: [Partial<RootfsLimits>, Buffer][] = [
    [{ layerBytes: 1000 }, manyNames],
    [{ imageBytes: 100_000 }, archive({ content: 'x'.repeat(100_000) })],
    [{ imageBytes: 10_000 }, archive(...['a', 'b', 'c'].map((name) => ({ name, content: 'x' })))],
    [{ imageBytes: 2 ** 24 }, sparse(holes, `${map(`2\n0\n1\n${2 ** 39}\n1\n`)}ab`)],
    [{ entries: 30 }, manyNames],
    [{ entries: 30 }, archive({ name: 'a/'.repeat(40) })],
    [{ metadataBytes: 2000 }, manyNames],
    [{ metadataBytes: 2 ** 17 }, sparse(holes, map('0\n'))],
    [{ headerBytes: 1000 }, archive({ pax: { comment: 'c'.repeat(1000) } })],
    [
      { headerBytes: 1000 },
      archive(...Array.from({ length: 40 }, () => paxMember('g', { comment: 'c'.repeat(90) }))),
    ],
    [{ headerBytes: 1000 }, archive(...manyHeaders({ comment: 'c'.repeat(90) }), {})],
    [{ headerBytes: 1000 }, archive(...manyHeaders({ 'SCHILY.xattr.user.x': 'v'.repeat(60) }), {})],
    [
      { headerBytes: 1000 },
      archive(...manyHeaders({ 'GNU.sparse.offset': '1', 'GNU.sparse.numbytes': '0' }), {}),
    ],
    [{ headerBytes: 1000 }, archive({ type: 'L', content: 'n'.repeat(1001) })],
    [
      { headerBytes: 1000 },
      sparse({ 'GNU.sparse.realsize': '10' }, '1'.repeat(4).padEnd(512, '\n1')),
    ],
    [{ xattrBytes: 100 }, archive({ pax: { 'SCHILY.xattr.user.x': 'v'.repeat(100) } })],
    [{ depth: 3 }, archive({ name: 'a/b/c/d/e' })],
  ];
  for (const [limits, tar] of LIMITS) {
    const [[name, value]] = Object.entries(limits) as [[string, number]];
    it(`stops at ${name} = ${value}`, async () => {
      const failure = await failureOf([layerOf(tar)], limits);
      expect(failure.code).toBe('VMF_LAYER_LIMIT');
      expect(failure.message).toContain(`limits.${name} = ${value}`);
    });
  }

  it('stops at entries when symbolic links multiply the work', async () => {
    const long = 'a/../'.repeat(800);
    const links = Array.from({ length: 30 }, (_, index) => symlink(`l${index}`, '')).map(
      (link, index) => ({
        ...link,
        pax: { linkpath: `${long}${index === 0 ? 'a' : `l${index - 1}`}` },
      }),
    );
    const files = Array.from({ length: 40 }, (_, index) => ({ name: `l29/f${index}` }));
    const failure = await failureOf([layerOf(archive(directory('a'), ...links, ...files))], {
      entries: 1000,
    });
    expect(failure.code).toBe('VMF_LAYER_LIMIT');
  });
});

describe('layers that do not come', () => {
  it('passes on what the source throws, typed', async () => {
    const fails = (thrown: unknown): LayerSource => ({
      // biome-ignore lint/correctness/useYield: a stream that fails at once.
      async *open() {
        throw thrown;
      },
    });
    const own = new VmforkError('VMF_TIMEOUT', 'mine');
    expect(await failureOf([fails(own)])).toBe(own);
    const other = await failureOf([fails(new Error('unexpected end of file'))]);
    expect(other.code).toBe('VMF_LAYER_INVALID');
    expect(other.message).toContain('unexpected end of file');
  });

  it('leaves a stream that stalls when the signal fires', async () => {
    const aborter = new AbortController();
    const stalls: LayerSource = {
      async *open() {
        yield archive({ content: 'x' }).subarray(0, 600);
        aborter.abort(new Error('enough'));
        await new Promise(() => {});
      },
    };
    const failure = await failureOf([stalls], undefined, aborter.signal);
    expect(failure.code).toBe('VMF_ABORTED');
    expect(failure.cause).toBe(aborter.signal.reason);
  });

  it('refuses a layer that is another one when it is read again', async () => {
    const below = [archive({ name: 'a', content: 'one' }), archive({ name: 'b', content: 'two' })];
    const changes: LayerSource = { open: () => layerOf(below.shift() ?? END).open() };
    const above = archive(hardlink('b', 'a'), { name: 'a', content: 'new' });
    const failure = await failureOf([changes, layerOf(above)]);
    expect(failure.message).toContain('the layer is not the one of the first pass');
  });

  it('refuses wrong options', async () => {
    const wrong = { output: 'x', layers: [{}] } as unknown as Parameters<typeof buildRootfs>[0];
    await expect(buildRootfs(wrong)).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
    for (const limits of [{ entries: 0 }, { entires: 1 }]) {
      expect((await failureOf([], limits as Partial<RootfsLimits>)).code).toBe('VMF_OPTIONS');
    }
  });

  it('says which folder cannot be written', async () => {
    const failure = await buildRootfs({ layers: [], output: '/proc/none/image' }).catch(
      (error) => error,
    );
    expect(failure).toMatchObject({ code: 'VMF_SYSTEM', operation: 'open', errno: 2 });
  });
});
