// Root filesystems that the store builds from its images: kept as long as an image needs them, then collected.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { prepareRootfs } from '#src/oci/prepare.js';
import { ImageStore } from '#src/oci/store.js';
import {
  digestOf,
  type Layers,
  makeLayout,
  noise,
  run,
  Scratch,
} from '../../helpers/oci/images.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 60_000 });

const scratch = new Scratch();
const user = fileURLToPath(new URL('./fixtures/store-user.mjs', import.meta.url));
let layers: Layers;
let stores = 0;

const open = (dir = scratch.file(`store${stores++}`)) => ImageStore.open({ dir });
const builtIn = (store: ImageStore) => readdirSync(join(store.dir, 'rootfs'));
const entriesIn = (store: ImageStore) => builtIn(store).filter((name) => !name.startsWith('.'));

/** Another image with the same layers: only its config differs. */
function relabelled(): string {
  run('cp', '-r', scratch.file('app'), scratch.file('relabelled'));
  run('umoci', 'config', '--image', `${scratch.file('relabelled')}:v1`, '--config.label=a=b');
  return scratch.file('relabelled');
}

beforeAll(() => {
  layers = makeLayout(scratch, 'app', 3_000_000);
});
afterAll(() => scratch.remove());

describe('what images need', () => {
  test('stays until the last image of these layers is gone, then counts as freed', async () => {
    const store = await open();
    const first = await store.importFrom(scratch.file('app'), { reference: 'one' });
    const second = await store.importFrom(relabelled(), { reference: 'two' });
    expect(second.digest).not.toBe(first.digest);
    const built = await prepareRootfs(first);
    expect(built.path.startsWith(join(store.dir, 'rootfs'))).toBe(true);
    expect((await prepareRootfs(second)).path).toBe(built.path);
    await store.remove('one');
    expect(await store.gc()).toMatchObject({ removedBlobs: 2, removedRootfs: 0 });
    expect(digestOf(readFileSync(built.path))).toBe(built.digest);
    const held = await openFile(built.path);
    await store.remove('two');
    const { removedBlobs, removedRootfs, freedBytes } = await store.gc();
    expect({ removedBlobs, removedRootfs }).toEqual({ removedBlobs: 4, removedRootfs: 1 });
    expect(freedBytes).toBeGreaterThan(built.sizeBytes + 3_000_000);
    expect(builtIn(store)).toEqual([]);
    // Who had it open has all of it.
    const bytes = await held.readFile();
    await held.close();
    expect(digestOf(bytes)).toBe(built.digest);
  });

  test('is built again when its image comes back', async () => {
    const store = await open();
    const built = await prepareRootfs(await store.importFrom(scratch.file('app')));
    await store.remove('app:v1');
    await store.gc();
    const again = await prepareRootfs(await store.importFrom(scratch.file('app')));
    expect(again).toEqual(built);
    expect(statSync(again.path).size).toBe(built.sizeBytes);
  });

  test('is the caller’s where the caller said where', async () => {
    const store = await open();
    const dir = scratch.file('own');
    const built = await prepareRootfs(await store.importFrom(scratch.file('app')), { dir });
    await store.remove('app:v1');
    expect((await store.gc()).removedRootfs).toBe(0);
    expect(existsSync(built.path)).toBe(true);
  });

  test('what other versions of the writer have left goes', async () => {
    const store = await open();
    const built = await prepareRootfs(await store.importFrom(scratch.file('app')));
    const older = join(store.dir, 'rootfs', 'ab'.repeat(32));
    mkdirSync(older);
    writeFileSync(join(older, 'rootfs.erofs'), noise('older', 5000));
    writeFileSync(join(store.dir, 'rootfs', 'image.erofs'), noise('oldest', 70));
    expect(await store.gc()).toEqual({ removedBlobs: 0, removedRootfs: 2, freedBytes: 5070 });
    expect(entriesIn(store)).toHaveLength(1);
    expect(existsSync(built.path)).toBe(true);
  });
});

describe('at the same time', () => {
  test('a build ends well though its image is removed and collected meanwhile', async () => {
    const store = await open();
    const image = await store.importFrom(scratch.file('app'));
    const argv = [user, store.dir, 'remove', image.reference.toString()];
    let said = '';
    const built = await prepareRootfs(image, {
      onProgress() {
        // This process, and with it the build, stands still until the other one has collected.
        said ||= execFileSync(process.execPath, argv, { encoding: 'utf8' });
      },
    });
    // The layers stay for the build.
    expect(JSON.parse(said.split('\n')[1] ?? '')).toMatchObject({
      removedBlobs: 2,
      removedRootfs: 0,
    });
    expect(digestOf(readFileSync(built.path))).toBe(built.digest);
    expect(await store.gc()).toMatchObject({ removedBlobs: 2, removedRootfs: 1 });
    expect(builtIn(store)).toEqual([]);
    expect(readdirSync(join(store.dir, 'leases'))).toEqual([]);
  });

  test('builds and collections of six processes leave what the image needs', async () => {
    const store = await open();
    await store.importFrom(scratch.file('app'), { reference: 'imported' });
    const verbs = ['prepare', 'gc', 'prepare', 'gc', 'prepare', 'gc'];
    const children = verbs.map((verb) =>
      spawn(process.execPath, [user, store.dir, verb, 'imported'], {
        stdio: ['ignore', 'ignore', 'inherit'],
      }),
    );
    const codes = await Promise.all(children.map((child) => once(child, 'exit')));
    expect(codes.map(([code]) => code)).toEqual([0, 0, 0, 0, 0, 0]);
    const built = await prepareRootfs(await store.inspect('imported'));
    expect(digestOf(readFileSync(built.path))).toBe(built.digest);
    expect(builtIn(store)).toHaveLength(1);
  });

  test('what a killed build has left goes when the store is opened', async () => {
    const store = await open();
    const program = fileURLToPath(new URL('./rootfs/fixtures/builder.mjs', import.meta.url));
    const [tarPath, diffId] = [layers.paths[0] as string, layers.diffIds[0] as string];
    const argv = [program, join(store.dir, 'rootfs'), tarPath, diffId];
    const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    await sleep(40);
    expect((await store.gc()).removedRootfs).toBe(0);
    expect(builtIn(store)).toHaveLength(1);
    child.kill('SIGKILL');
    await ended;
    await open(store.dir);
    expect(builtIn(store)).toEqual([]);
  });
});
