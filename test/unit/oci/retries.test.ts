// When another try is made, and after how long: registries that are restarted, and what Retry-After asks for.

import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { retryAfterMs } from '#src/oci/http.js';
import { ImageStore } from '#src/oci/store.js';
import { digestOf, readLayer, Scratch } from '../../helpers/oci/images.js';
import { makeImage, OddRegistry } from '../../helpers/oci/odd-registry.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000 });

const scratch = new Scratch();
const image = makeImage('retries');
const layerDigest = digestOf(image.layer);
let registry: OddRegistry;
let stores = 0;

const open = () => ImageStore.open({ dir: scratch.file(`store${stores++}`) });
const name = () => `${registry.host}/odd/app:v1`;

beforeAll(async () => {
  registry = await OddRegistry.start();
});
afterAll(() => {
  registry.close();
  scratch.remove();
});

/** Closes the registry in the middle of the layer. Calls `onRefused` when nobody was at its address. */
function closeDuringLayer(onRefused: () => void): () => void {
  const onError = (message: unknown) => {
    const { error } = message as { error: NodeJS.ErrnoException };
    if (error.code === 'ECONNREFUSED') onRefused();
  };
  subscribe('undici:client:connectError', onError);
  registry.serve(image);
  registry.spoil = ({ path, headers }, response, content = Buffer.of()) => {
    if (!path.endsWith(layerDigest) || headers.range) return false;
    response.writeHead(200, { 'content-length': content.length });
    response.write(content.subarray(0, 40_000), () => registry.close());
    return true;
  };
  return () => unsubscribe('undici:client:connectError', onError);
}

test('a registry that is restarted goes on where it stopped', async () => {
  let refusals = 0;
  const stop = closeDuringLayer(() => {
    refusals++;
    if (refusals === 2) registry.reopen();
  });
  try {
    const pulled = await (await open()).pull(name(), { auth: null, retry: { delayMs: 1 } });
    expect((await readLayer(pulled, 0)).equals(image.plain)).toBe(true);
  } finally {
    stop();
  }
  expect(refusals).toBe(2);
  const ranges = registry.asked('blobs', layerDigest).map(({ headers }) => headers.range);
  expect(ranges).toEqual([undefined, 'bytes=40000-']);
});

test('one that does not come back is given up', async () => {
  let refusals = 0;
  const stop = closeDuringLayer(() => refusals++);
  try {
    const pulling = (await open()).pull(name(), { auth: null, retry: { attempts: 3, delayMs: 1 } });
    await expect(pulling).rejects.toMatchObject({ code: 'VMF_REGISTRY', errno: 111 });
  } finally {
    stop();
    registry.reopen();
  }
  expect(refusals).toBe(2);
});

const nowMs = Date.UTC(2024, 1, 29, 12, 0, 0);
test.each([
  ['0', 0],
  ['7', 7000],
  ['999999999', 999_999_999_000],
  ['Thu, 29 Feb 2024 12:01:30 GMT', 90_000],
  ['Thursday, 29-Feb-24 12:00:05 GMT', 5000],
  ['Thu, 29 Feb 2024 11:00:00 GMT', 0],
  ['soon', undefined],
  ['-5', undefined],
  [undefined, undefined],
])('Retry-After: %s is %s ms', (header, expected) => {
  expect(retryAfterMs(header, nowMs)).toBe(expected);
});

test.each([
  ['seconds', () => '1', 1000],
  // Without its fraction of a second it is at least one away.
  ['a date', () => new Date(Date.now() + 2000).toUTCString(), 1000],
])('the next try waits for %s that Retry-After gives', async (_, retryAfter, leastMs) => {
  registry.serve(image);
  const askedMs: number[] = [];
  registry.spoil = ({ path }, response) => {
    if (!path.includes('/manifests/') || askedMs.push(performance.now()) > 1) return false;
    response.writeHead(503, { 'retry-after': retryAfter() }).end();
    return true;
  };
  await (await open()).pull(name(), { auth: null, retry: { delayMs: 1 } });
  const [first = 0, second = 0] = askedMs;
  // Timers of Node may be a millisecond early.
  expect(second - first).toBeGreaterThanOrEqual(leastMs - 2);
});
