// Registries that break connections, lie, stall and redirect.

import { readdirSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { ImageStore } from '#src/oci/store.js';
import { digestOf, noise, readLayer, Scratch } from '../../helpers/oci/images.js';
import { makeImage, OddRegistry, type Spoil, sendRange } from '../../helpers/oci/odd-registry.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 60_000 });

const scratch = new Scratch();
const retry = { attempts: 4, delayMs: 1, silenceMs: 300 };
const image = makeImage();
const layerDigest = digestOf(image.layer);
let registry: OddRegistry;
let elsewhere: OddRegistry;
let stores = 0;

const open = () => ImageStore.open({ dir: scratch.file(`store${stores++}`) });
const name = () => `${registry.host}/odd/app:v1`;
const isLayer = (path: string) => path.endsWith(layerDigest);

async function pull(store?: ImageStore) {
  return (store ?? (await open())).pull(name(), { retry, auth: null });
}

beforeAll(async () => {
  registry = await OddRegistry.start();
  elsewhere = await OddRegistry.start();
});
afterAll(() => {
  registry.close();
  elsewhere.close();
  scratch.remove();
});

/** Spoils the first `times` requests for the layer. */
function spoilLayer(times: number, how: Spoil): Spoil {
  let left = times;
  return (request, response, content) =>
    isLayer(request.path) && left-- > 0 && how(request, response, content);
}

describe('connections', () => {
  test('a download that is cut goes on where it stopped', async () => {
    registry.serve(image);
    registry.spoil = spoilLayer(2, ({ headers }, response, content = Buffer.of()) => {
      const start = Number(/[0-9]+/.exec(headers.range ?? '')?.[0] ?? 0);
      if (start > 0) {
        const range = `bytes ${start}-${content.length - 1}/${content.length}`;
        response.writeHead(206, { 'content-range': range });
      } else response.writeHead(200, { 'content-length': content.length });
      response.write(content.subarray(start, start + 30_000), () => response.destroy());
      return true;
    });
    const pulled = await pull();
    expect((await readLayer(pulled, 0)).equals(image.plain)).toBe(true);
    const ranges = registry.asked('blobs', layerDigest).map(({ headers }) => headers.range);
    expect(ranges).toEqual([undefined, 'bytes=30000-', 'bytes=60000-']);
  });

  test.each<[string, Spoil]>([
    [
      'ignores the range and sends all',
      (_, response, content = Buffer.of()) => {
        response.writeHead(200).end(content);
        return true;
      },
    ],
    [
      'sends another range than was asked for',
      (_, response, content = Buffer.of()) => {
        const range = `bytes 10-${content.length - 1}/${content.length}`;
        response.writeHead(206, { 'content-range': range }).end(content.subarray(10));
        return true;
      },
    ],
    [
      'refuses the range',
      (_, response) => {
        response.writeHead(416).end();
        return true;
      },
    ],
  ])('a registry that %s is asked for all', async (_, second) => {
    registry.serve(image);
    let count = 0;
    registry.spoil = spoilLayer(2, (request, response, content = Buffer.of()) => {
      if (count++ > 0) return second(request, response, content);
      response.writeHead(200, { 'content-length': content.length });
      response.write(content.subarray(0, 30_000), () => response.destroy());
      return true;
    });
    expect((await readLayer(await pull(), 0)).equals(image.plain)).toBe(true);
  });

  test('what came before a failure serves the next pull, from another store object', async () => {
    registry.serve(image);
    registry.spoil = (request, response, content = Buffer.of()) => {
      if (!isLayer(request.path)) return false;
      if (request.headers.range) response.writeHead(500).end();
      else {
        response.writeHead(200, { 'content-length': content.length });
        response.write(content.subarray(0, 50_000), () => response.destroy());
      }
      return true;
    };
    const store = await open();
    await expect(pull(store)).rejects.toMatchObject({ code: 'VMF_REGISTRY', status: 500 });
    registry.serve(image);
    await pull(await ImageStore.open({ dir: store.dir }));
    expect(registry.asked('blobs', layerDigest)[0]?.headers.range).toBe('bytes=50000-');
  });

  test('a beginning that was damaged on disk is fetched anew', async () => {
    registry.serve(image);
    const store = await open();
    writeFileSync(`${store.dir}/partial/${layerDigest.replace(':', '-')}`, noise('bad', 1000));
    expect((await readLayer(await pull(store), 0)).equals(image.plain)).toBe(true);
    const ranges = registry.asked('blobs', layerDigest).map(({ headers }) => headers.range);
    expect(ranges).toEqual(['bytes=1000-', undefined]);
  });

  test('a registry that is busy is asked again', async () => {
    registry.serve(image);
    let refusals = 0;
    registry.spoil = (request, response) => {
      if (request.path === '/v2/' || refusals >= 3) return false;
      response.writeHead([429, 503, 429][refusals++] ?? 500, { 'retry-after': '0' }).end();
      return true;
    };
    await pull();
    expect(refusals).toBe(3);
  });

  test('one that stays busy is given up, with its status and words', async () => {
    registry.serve(image);
    registry.spoil = (request, response) => {
      if (request.path === '/v2/') return false;
      const errors = [{ code: 'TOOMANYREQUESTS', message: 'slow\ndown' }];
      response.writeHead(429).end(JSON.stringify({ errors }));
      return true;
    };
    await expect(pull()).rejects.toMatchObject({
      code: 'VMF_REGISTRY',
      status: 429,
      message: expect.stringContaining('slow?down'),
    });
    expect(registry.asked('manifests')).toHaveLength(retry.attempts);
  });

  test.each(['silence', 'drops'])('%s are not waited for', async (kind) => {
    registry.serve(image);
    const timers: NodeJS.Timeout[] = [];
    registry.spoil = ({ path }, response, content = Buffer.of()) => {
      if (!isLayer(path)) return false;
      if (kind === 'silence') return true;
      response.writeHead(200, { 'content-length': content.length });
      let sent = 0;
      timers.push(setInterval(() => response.write(content.subarray(sent, ++sent)), 20));
      return true;
    };
    const store = await open();
    const impatient = { ...retry, attempts: 2 };
    const pulling = store.pull(name(), { retry: impatient, auth: null });
    await expect(pulling).rejects.toMatchObject({ code: 'VMF_REGISTRY' });
    for (const timer of timers) clearInterval(timer);
    expect(registry.asked('blobs', layerDigest)).toHaveLength(2);
  });

  test('nobody at the address is an error at once', async () => {
    const gone = await OddRegistry.start();
    const { host } = gone;
    gone.close();
    const store = await open();
    await expect(store.pull(`${host}/a/b`, { retry })).rejects.toMatchObject({
      code: 'VMF_REGISTRY',
      errno: 111,
    });
  });

  test('a signal ends a pull that waits', async () => {
    registry.serve(image);
    const controller = new AbortController();
    registry.spoil = ({ path }) => {
      if (isLayer(path)) controller.abort(new Error('enough'));
      return isLayer(path);
    };
    const store = await open();
    const waiting = store.pull(name(), { signal: controller.signal, auth: null });
    await expect(waiting).rejects.toMatchObject({ code: 'VMF_ABORTED' });
    expect(readdirSync(`${store.dir}/leases`)).toEqual([]);
    expect(readdirSync(`${store.dir}/temp`)).toEqual([]);
  });
});

describe('lies', () => {
  test('a layer that is other content is refused and not kept', async () => {
    registry.serve(image);
    registry.content.set(layerDigest, {
      bytes: noise('other', image.layer.length),
      type: 'application/octet-stream',
    });
    const store = await open();
    await expect(pull(store)).rejects.toMatchObject({ code: 'VMF_IMAGE_DIGEST' });
    expect(readdirSync(`${store.dir}/partial`)).toEqual([]);
    await expect(store.inspect(name())).rejects.toMatchObject({ code: 'VMF_IMAGE_NOT_FOUND' });
  });

  test('a layer that goes on after its end is cut off', async () => {
    registry.serve(image);
    registry.spoil = spoilLayer(9, (_, response, content = Buffer.of()) => {
      response.writeHead(200).end(Buffer.concat([content, noise('more', 100_000)]));
      return true;
    });
    await expect(pull()).rejects.toMatchObject({ code: 'VMF_IMAGE_DIGEST' });
  });

  test('a diff id that is wrong fails the reader before the end', async () => {
    const config = Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        rootfs: { type: 'layers', diff_ids: [digestOf(Buffer.of(1))] },
      }),
    );
    const entry = { ...image.manifest.config, digest: digestOf(config), size: config.length };
    registry.serve({ ...image, config, manifest: { ...image.manifest, config: entry } });
    const pulled = await pull();
    await expect(readLayer(pulled, 0)).rejects.toMatchObject({ code: 'VMF_IMAGE_DIGEST' });
  });

  test('a manifest that is not the one of the digest is refused', async () => {
    registry.serve(image);
    const store = await open();
    registry.spoil = ({ path }, response) => {
      if (!path.includes('/manifests/')) return false;
      sendRange(response, Buffer.from('{}'), undefined);
      return true;
    };
    const wanted = `${registry.host}/odd/app@${digestOf(Buffer.of(2))}`;
    await expect(store.pull(wanted, { retry })).rejects.toMatchObject({ code: 'VMF_IMAGE_DIGEST' });
  });

  test.each<[string, unknown, string]>([
    ['no JSON', 'nonsense', 'VMF_IMAGE_INVALID'],
    ['both manifest and index', { ...image.manifest, manifests: [] }, 'VMF_IMAGE_INVALID'],
    ['Docker schema 1', { schemaVersion: 1, fsLayers: [] }, 'VMF_IMAGE_UNSUPPORTED'],
    [
      'of an artifact',
      { ...image.manifest, artifactType: 'application/vnd.example' },
      'VMF_IMAGE_UNSUPPORTED',
    ],
    [
      'with encrypted layers',
      {
        ...image.manifest,
        layers: [
          {
            ...image.manifest.layers[0],
            mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip+encrypted',
          },
        ],
      },
      'VMF_IMAGE_UNSUPPORTED',
    ],
    [
      'with more layers than diff ids',
      { ...image.manifest, layers: [image.manifest.layers[0], image.manifest.layers[0]] },
      'VMF_IMAGE_INVALID',
    ],
    [
      'that calls itself something else',
      { ...image.manifest, mediaType: 'application/vnd.oci.image.index.v1+json' },
      'VMF_IMAGE_INVALID',
    ],
  ])('a manifest %s is refused', async (_, manifest, code) => {
    registry.serve({ ...image, manifest });
    if (manifest === 'nonsense') registry.serveManifest(Buffer.from('{'));
    if ((manifest as { schemaVersion?: number }).schemaVersion === 1) {
      const type = 'application/vnd.docker.distribution.manifest.v1+prettyjws';
      registry.serveManifest(Buffer.from(JSON.stringify(manifest)), type);
    }
    await expect(pull()).rejects.toMatchObject({ code });
  });

  test('a manifest without end is left', async () => {
    registry.serve(image);
    registry.serveManifest(Buffer.alloc(5 * 1024 * 1024, ' '));
    await expect(pull()).rejects.toMatchObject({ code: 'VMF_REGISTRY' });
  });

  test('an address of a foreign layer is not followed', async () => {
    elsewhere.serve(image);
    const url = `http://${elsewhere.host}/v2/x/blobs/${layerDigest}`;
    const foreign = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip';
    const layer = { ...image.manifest.layers[0], mediaType: foreign, urls: [url] };
    registry.serve({ ...image, manifest: { ...image.manifest, layers: [layer] } });
    registry.content.delete(layerDigest);
    await expect(pull()).rejects.toMatchObject({ code: 'VMF_IMAGE_UNSUPPORTED' });
    expect(elsewhere.requests).toEqual([]);
  });

  test('content that a manifest carries along is taken, when it is right', async () => {
    const withData = (bytes: Buffer) => ({
      ...image.manifest,
      config: { ...image.manifest.config, data: bytes.toString('base64') },
    });
    registry.serve({ ...image, manifest: withData(image.config) });
    registry.content.delete(digestOf(image.config));
    await pull();
    registry.serve({ ...image, manifest: withData(Buffer.from('{}')) });
    await expect(pull()).rejects.toMatchObject({ code: 'VMF_IMAGE_DIGEST' });
  });
});

describe('redirects', () => {
  const redirect = (to: () => string): Spoil =>
    spoilLayer(99, (_, response) => {
      response.writeHead(307, { location: to() }).end();
      return true;
    });
  const basic: Spoil = ({ headers, path }, response) => {
    if (headers.authorization || path === '/v2/') return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
    return true;
  };

  test('to another host go without the credentials', async () => {
    registry.serve(image);
    elsewhere.serve(image);
    const away = redirect(() => `http://${elsewhere.host}/cdn/${layerDigest}`);
    registry.spoil = (...args) => basic(...args) || away(...args);
    const store = await open();
    const auth = { username: 'me', password: 'secret' };
    const pulled = await store.pull(name(), { auth, retry });
    expect((await readLayer(pulled, 0)).equals(image.plain)).toBe(true);
    expect(elsewhere.requests.map(({ headers }) => headers.authorization)).toEqual([undefined]);
  });

  test('that never end are left, and so are odd addresses', async () => {
    for (const to of [`/v2/odd/app/blobs/${layerDigest}`, 'file:///etc/passwd', 'http://a:b@c/']) {
      registry.serve(image);
      registry.spoil = redirect(() => to);
      await expect(pull()).rejects.toMatchObject({ code: 'VMF_REGISTRY' });
    }
  });

  test('a token service that is no web address gets no password', async () => {
    registry.serve(image);
    registry.spoil = ({ path }, response) => {
      if (path === '/v2/') return false;
      const challenge = 'Bearer realm="ftp://thief/",service="x"';
      response.writeHead(401, { 'www-authenticate': challenge }).end();
      return true;
    };
    await expect(pull()).rejects.toMatchObject({ code: 'VMF_REGISTRY_AUTH' });
  });
});
