// The store as a whole: what is kept, what is collected, several processes at once, and deaths at any moment.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { ImageStore } from '#src/oci/store.js';
import { ownedName } from '#src/owner.js';
import { digestOf, makeLayout, noise, readLayer, run, Scratch } from '../../helpers/oci/images.js';
import { makeImage, OddRegistry, sendRange } from '../../helpers/oci/odd-registry.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 60_000 });

const scratch = new Scratch();
const program = fileURLToPath(new URL('./fixtures/store-user.mjs', import.meta.url));
const image = makeImage('store', 2_000_000);
const layerDigest = digestOf(image.layer);
let registry: OddRegistry;
let stores = 0;

const storeDir = () => scratch.file(`store${stores++}`);
const open = (dir = storeDir()) => ImageStore.open({ dir });
const name = () => `${registry.host}/app:v1`;
const pull = (store: ImageStore) => store.pull(name(), { auth: null });
const filesIn = (dir: string) => run('find', dir, '-type', 'f').trim().split('\n').sort();
const blobPath = (dir: string, digest: string) => join(dir, 'blobs', digest.replace(':', '/'));

function start(...args: string[]): ChildProcess {
  return spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

beforeAll(async () => {
  registry = await OddRegistry.start();
  makeLayout(scratch, 'app');
}, 60_000);
afterAll(() => {
  registry.close();
  scratch.remove();
});

describe('what is kept', () => {
  test('an image is found by all its names until the last is removed', async () => {
    const store = await open();
    const { digest } = await store.importFrom(scratch.file('app'), { reference: 'one:1' });
    await store.importFrom(scratch.file('app'), { reference: 'two' });
    expect((await store.inspect('docker.io/library/one:1')).digest).toBe(digest);
    expect((await store.inspect(digest)).digest).toBe(digest);
    await store.remove('one:1');
    await expect(store.inspect('one:1')).rejects.toMatchObject({ code: 'VMF_IMAGE_NOT_FOUND' });
    expect((await store.gc()).removedBlobs).toBe(0);
    await store.remove(digest);
    await expect(store.remove('two')).rejects.toMatchObject({ code: 'VMF_IMAGE_NOT_FOUND' });
    expect((await store.gc()).removedBlobs).toBe(4);
    expect(filesIn(store.dir)).toEqual([join(store.dir, 'store.json')]);
  });

  test('a name that is pulled again leads to the new image', async () => {
    registry.serve(image);
    const store = await open();
    const before = await pull(store);
    const newer = makeImage('newer');
    registry.serve(newer);
    const after = await pull(store);
    expect(after.digest).not.toBe(before.digest);
    expect((await store.inspect(name())).digest).toBe(after.digest);
    const { removedBlobs, freedBytes } = await store.gc();
    expect(removedBlobs).toBe(3);
    expect(freedBytes).toBeGreaterThan(image.layer.length);
    expect((await readLayer(after, 0)).equals(newer.plain)).toBe(true);
  });

  test('a layer that went bad on disk fails its reader and is fetched anew', async () => {
    registry.serve(image);
    const store = await open();
    const pulled = await pull(store);
    const path = blobPath(store.dir, layerDigest);
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    run('chmod', 'u+w', path);
    writeFileSync(path, bytes);
    await expect(readLayer(pulled, 0)).rejects.toMatchObject({
      code: expect.stringMatching(/^VMF_IMAGE_(DIGEST|INVALID)$/),
    });
    writeFileSync(path, bytes.subarray(0, 100));
    await expect(store.inspect(name())).rejects.toMatchObject({ code: 'VMF_IMAGE_NOT_FOUND' });
    expect((await readLayer(await pull(store), 0)).equals(image.plain)).toBe(true);
  });

  test('a layer that is gone, and one that never was, are errors', async () => {
    const store = await open();
    const imported = await store.importFrom(scratch.file('app'));
    await store.remove(imported.reference);
    await store.gc();
    await expect(imported.openLayer(0)).rejects.toMatchObject({ code: 'VMF_STORE', errno: 2 });
    await expect(imported.openLayer(2)).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  });

  test('a reader that leaves early leaves no descriptor open', async () => {
    const store = await open();
    const imported = await store.importFrom(scratch.file('app'));
    const before = readdirSync('/proc/self/fd').length;
    for (let round = 0; round < 10; round++) {
      const stream = await imported.openLayer(0);
      for await (const _ of stream) break;
    }
    const controller = new AbortController();
    const stream = await imported.openLayer(0, { signal: controller.signal });
    controller.abort();
    await expect(stream.toArray()).rejects.toMatchObject({ code: 'VMF_ABORTED' });
    await expect.poll(() => readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before);
  });

  test('damaged records are left out, and removed by a collection', async () => {
    const store = await open();
    await store.importFrom(scratch.file('app'));
    for (const bytes of ['', '{', '{"reference":"x"}', '[]']) {
      writeFileSync(
        join(store.dir, 'refs', `${digestOf(Buffer.from(bytes)).slice(7)}.json`),
        bytes,
      );
    }
    expect(await store.list()).toHaveLength(1);
    await store.gc();
    expect(readdirSync(join(store.dir, 'refs'))).toHaveLength(1);
  });
});

describe('what is refused', () => {
  test('a folder that cannot be a store', async () => {
    const failing = ImageStore.open({ dir: '/dev/null/store' });
    await expect(failing).rejects.toMatchObject({ code: 'VMF_STORE', errno: 20 });
    const store = await open();
    writeFileSync(join(store.dir, 'store.json'), '{"version":2}');
    await expect(open(store.dir)).rejects.toMatchObject({ code: 'VMF_STORE' });
  });

  test('options that are wrong', async () => {
    const store = await open();
    const wrong = [
      { concurrency: 0 },
      { auth: { username: 'a' } },
      { retry: { attempts: 0 } },
      { platform: 'linux' },
      { nonsense: 1 },
    ];
    for (const options of wrong) {
      const pulling = store.pull('app', options as object);
      await expect(pulling).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
    }
    await expect(store.pull('App')).rejects.toMatchObject({ code: 'VMF_IMAGE_REFERENCE' });
    const aborted = store.pull('app', { signal: AbortSignal.abort() });
    await expect(aborted).rejects.toMatchObject({ code: 'VMF_ABORTED' });
  });
});

describe('several processes', () => {
  test('a collection spares what a pull of another process works on', async () => {
    registry.serve(image);
    const store = await open();
    let release = () => {};
    const reached = new Promise<void>((resolve) => {
      registry.spoil = ({ path, headers }, response, content = Buffer.of()) => {
        if (!path.endsWith(layerDigest)) return false;
        release = () => sendRange(response, content, headers.range);
        resolve();
        return true;
      };
    });
    const child = start(store.dir, 'pull', name());
    const ended = once(child, 'exit');
    await reached;
    expect(await store.gc()).toEqual({ removedBlobs: 0, removedRootfs: 0, freedBytes: 0 });
    release();
    expect(await ended).toEqual([0, null]);
    expect((await readLayer(await store.inspect(name()), 0)).equals(image.plain)).toBe(true);
  });

  test('pulls, imports and collections of six processes leave a whole store', async () => {
    registry.serve(image);
    const store = await open();
    const verbs = [['pull', name()], ['import', scratch.file('app')], ['gc']];
    const children = [...verbs, ...verbs].map((verb) => start(store.dir, ...verb));
    const codes = await Promise.all(children.map((child) => once(child, 'exit')));
    expect(codes.map(([code]) => code)).toEqual([0, 0, 0, 0, 0, 0]);
    expect((await readLayer(await store.inspect(name()), 0)).equals(image.plain)).toBe(true);
    await readLayer(await store.inspect('imported'), 0);
    expect((await store.gc()).removedBlobs).toBe(0);
    for (const folder of ['temp', 'leases', 'sweeps']) {
      expect(readdirSync(join(store.dir, folder))).toEqual([]);
    }
  });
});

describe('sudden death', () => {
  test('a download goes on where its process was killed', async () => {
    registry.serve(image);
    const store = await open();
    registry.spoil = ({ path }, response, content = Buffer.of()) => {
      if (!path.endsWith(layerDigest)) return false;
      response.writeHead(200, { 'content-length': content.length });
      response.write(content.subarray(0, 1_000_000));
      return true;
    };
    const child = start(store.dir, 'pull', name());
    const temp = join(store.dir, 'temp');
    await expect
      .poll(
        () =>
          filesIn(temp)
            .filter(Boolean)
            .map((path) => readFileSync(path).length),
        {
          timeout: 20_000,
        },
      )
      .toContain(1_000_000);
    await kill(child);
    registry.serve(image);
    const again = await open(store.dir);
    expect(readdirSync(temp)).toEqual([]);
    expect((await readLayer(await pull(again), 0)).equals(image.plain)).toBe(true);
    const [first] = registry.asked('blobs', layerDigest);
    expect(first?.headers.range).toBe('bytes=1000000-');
  }, 30_000);

  test.each(['pull', 'import'])(
    'a store survives whenever its user is killed (%s)',
    async (verb) => {
      registry.serve(image);
      const dir = storeDir();
      const argument = verb === 'pull' ? name() : scratch.file('app');
      for (let round = 0; round < 5; round++) {
        const child = start(dir, verb, argument);
        await once(child.stdout as NonNullable<typeof child.stdout>, 'data');
        // Another moment each time; none of them may matter.
        await sleep(round * 8);
        await kill(child);
        const store = await open(dir);
        for (const stored of await store.list()) {
          for (const at of stored.layers.keys()) await readLayer(stored, at);
        }
        if (round % 3 === 2) await store.gc();
      }
      const store = await open(dir);
      if (verb === 'pull') await pull(store);
      else await store.importFrom(argument, { reference: 'imported' });
      await store.gc();
      const kept = filesIn(dir).map((path) => path.slice(dir.length + 1).split('/')[0]);
      expect(new Set(kept)).toEqual(new Set(['blobs', 'refs', 'store.json']));
      expect(kept.filter((folder) => folder === 'blobs')).toHaveLength(verb === 'pull' ? 3 : 4);
    },
    60_000,
  );

  test('files of the dead are collected, files of the living are not', async () => {
    const store = await open();
    const mine = join(store.dir, 'temp', ownedName());
    const [place, pid] = ownedName().split('-');
    const reused = join(store.dir, 'temp', `${place}-${pid}-1-${'0'.repeat(16)}`);
    const dead = join(store.dir, 'leases', `${place}-4194305-1-${'0'.repeat(16)}`);
    for (const path of [mine, reused, dead]) writeFileSync(path, noise(path, 10));
    await open(store.dir);
    expect([mine, reused, dead].map((path) => existsSync(path))).toEqual([true, false, false]);
  });
});
