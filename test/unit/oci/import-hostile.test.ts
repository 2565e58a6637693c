// Folders and archives made to do harm: an import refuses them with a typed error and keeps nothing of them.

import { writeFileSync } from 'node:fs';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { ImageStore } from '#src/oci/store.js';
import { run, Scratch } from '../../helpers/oci/images.js';
import { archive, paxMember } from './rootfs/tar-maker.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000 });

const scratch = new Scratch();
let stores = 0;
afterAll(() => scratch.remove());

/** What importing fails with; the store must be as if it had not been tried. */
async function failureOf(path: string): Promise<unknown> {
  const store = await ImageStore.open({ dir: scratch.file(`store${stores++}`) });
  const failure = await store.importFrom(path).then(
    () => undefined,
    (error: unknown) => error,
  );
  await store.gc();
  expect(run('find', store.dir, '-type', 'f').trim()).toBe(`${store.dir}/store.json`);
  return failure;
}

describe('archives', () => {
  const long = 'c'.repeat(600 * 1024);
  test.each([
    ['for one entry', paxMember('x', { comment: long }), 2],
    ['for all entries', paxMember('g', { comment: long }), 2],
    ['of sparse offsets', paxMember('x', { 'GNU.sparse.offset': '7'.repeat(1000) }), 1100],
  ])('headers without end %s are refused', async (_, header, count) => {
    const path = scratch.file('headers.tar');
    const headers: Buffer[] = Array.from({ length: count }, () => header);
    writeFileSync(path, archive(...headers, { name: 'manifest.json', content: '[]' }));
    expect(await failureOf(path)).toMatchObject({
      code: 'VMF_IMAGE_INVALID',
      message: expect.stringContaining('pax headers are too large'),
    });
  });
});
