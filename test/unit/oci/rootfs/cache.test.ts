// The cache of images: built once, shared, and usable whatever was killed or damaged.

import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ensureRootfs, type LayerSource } from '#src/oci/rootfs/index.js';
import { archive, directory } from './tar-maker.js';
import { layerOf, scratch } from './trees.js';

const sha256 = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** A layer that counts how often it is opened. */
function counted(tar: Buffer): LayerSource & { opened: number } {
  const layer = layerOf(tar);
  const source = {
    opened: 0,
    diffId: sha256(tar),
    open() {
      source.opened++;
      return layer.open();
    },
  };
  return source;
}

const tar = archive(directory('d'), { name: 'd/f', content: 'content' });

describe('ensureRootfs', () => {
  it('builds once, and gives the same afterwards', async () => {
    using folder = scratch();
    const dir = join(folder.path, 'made/when/missing');
    const layer = counted(tar);
    const built = await ensureRootfs({ dir, layers: [layer] });
    expect(built.digest).toBe(sha256(readFileSync(built.path)));
    expect(built).toMatchObject({ entries: 2, sizeBytes: readFileSync(built.path).length });
    expect(await ensureRootfs({ dir, layers: [layer] })).toEqual(built);
    expect(layer.opened).toBe(1);
  });

  it('tells layers and their order apart', async () => {
    using folder = scratch();
    const dir = folder.path;
    const [a, b] = [counted(tar), counted(archive({ name: 'd' }))];
    const images = await Promise.all(
      [[a], [b], [a, b], [b, a]].map((layers) => ensureRootfs({ dir, layers })),
    );
    expect(new Set(images.map(({ path }) => path)).size).toBe(4);
  });

  it('builds once for callers at the same time, and lets those with a signal race', async () => {
    using folder = scratch();
    const dir = folder.path;
    const layer = counted(tar);
    const { signal } = new AbortController();
    const images = await Promise.all([
      ensureRootfs({ dir, layers: [layer] }),
      ensureRootfs({ dir, layers: [layer] }),
      ensureRootfs({ dir, layers: [layer], signal }),
      ensureRootfs({ dir, layers: [layer], signal }),
    ]);
    for (const image of images) expect(image).toEqual(images[0]);
    expect(layer.opened).toBe(3);
    expect(readdirSync(dir)).toHaveLength(1);
  });

  it('builds again what is damaged', async () => {
    using folder = scratch();
    const options = { dir: folder.path, layers: [counted(tar)] };
    const built = await ensureRootfs(options);
    const damages = [
      () => truncateSync(built.path, 100),
      () => writeFileSync(join(built.path, '../rootfs.json'), '{"sizeBytes":'),
      () => writeFileSync(join(built.path, '../rootfs.json'), '[]'),
      () => execFileSync('rm', [built.path]),
    ];
    for (const damage of damages) {
      damage();
      expect(await ensureRootfs(options)).toEqual(built);
      expect(sha256(readFileSync(built.path))).toBe(built.digest);
    }
    expect(readdirSync(folder.path)).toHaveLength(1);
  });

  it('gives the same bytes whatever the pieces the stream comes in', async () => {
    const digests = new Set<string>();
    for (const pieceBytes of [1, 511, 513, 100_000]) {
      using folder = scratch();
      const layers = [{ ...layerOf(tar, pieceBytes), diffId: sha256(tar) }];
      digests.add((await ensureRootfs({ dir: folder.path, layers })).digest);
    }
    expect(digests.size).toBe(1);
  });

  it('wants a diff id of every layer', async () => {
    const dir = '/nowhere';
    for (const diffId of [undefined, '', 'sha256:../../x', 'SHA256:00']) {
      await expect(ensureRootfs({ dir, layers: [{ ...layerOf(tar), diffId }] })).rejects.toThrow(
        'layer 0 needs a diffId',
      );
    }
  });

  it('leaves nothing behind when building fails', async () => {
    using folder = scratch();
    const layers = [counted(tar.subarray(0, 1300))];
    await expect(ensureRootfs({ dir: folder.path, layers })).rejects.toThrow('layer 0');
    expect(readdirSync(folder.path)).toEqual([]);
  });
});

describe('a process that is killed while it builds', () => {
  const program = fileURLToPath(new URL('./fixtures/builder.mjs', import.meta.url));
  const layer = archive(
    ...Array.from({ length: 300 }, (_, index) => ({ name: `f${index}`, content: 'x' })),
  );

  /** Starts a process that builds from this archive, and kills it after a while. */
  async function killedBuilder(dir: string, tarPath: string, afterMs: number): Promise<void> {
    const stdio = ['ignore', 'pipe', 'inherit'] as const;
    const child = spawn(process.execPath, [program, dir, tarPath, sha256(layer)], {
      stdio: [...stdio],
    });
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    await sleep(afterMs);
    child.kill('SIGKILL');
    await ended;
  }

  it('leaves nothing that is used, and the next one removes the rest', async () => {
    using folder = scratch();
    const dir = join(folder.path, 'cache');
    const tarPath = join(folder.path, 'layer.tar');
    writeFileSync(tarPath, layer);
    for (const afterMs of [0, 15, 40, 120]) await killedBuilder(dir, tarPath, afterMs);
    const before = readdirSync(dir);
    expect(before.length).toBeGreaterThan(0);
    expect(before.every((name) => name.startsWith('.tmp-'))).toBe(true);
    const built = await ensureRootfs({ dir, layers: [counted(layer)] });
    expect(readdirSync(dir)).toHaveLength(1);
    expect(built.digest).toBe(sha256(readFileSync(built.path)));
    expect(built.entries).toBe(300);
  });

  it('on another machine or before a reboot: is given a day', async () => {
    using folder = scratch();
    for (const [name, age] of [
      ['.tmp-0-1-1-aa', '2 days ago'],
      ['.tmp-0-1-1-bb', 'now'],
    ] as const) {
      execFileSync('mkdir', [join(folder.path, name)]);
      execFileSync('touch', ['-d', age, join(folder.path, name)]);
    }
    await ensureRootfs({ dir: folder.path, layers: [counted(tar)] });
    const left = readdirSync(folder.path).filter((name) => name.startsWith('.'));
    expect(left).toEqual(['.tmp-0-1-1-bb']);
  });
});
