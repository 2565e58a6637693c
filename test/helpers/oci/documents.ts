// Image documents for property tests and fuzz targets: ones in order, ones with odd values, and what must hold of what is read.

import fc from 'fast-check';
import { expect } from 'vitest';
import { isDigest } from '#src/oci/digest.js';
import { type ImageReference, parseReference } from '#src/oci/reference.js';

const descriptor = {
  mediaType: 'application/vnd.oci.image.layer.v1.tar',
  digest: `sha256:${'0'.repeat(64)}`,
  size: 1,
};
/** One of each kind, in order. */
export const documents = {
  manifest: { schemaVersion: 2, config: descriptor, layers: [descriptor, descriptor] },
  index: {
    schemaVersion: 2,
    manifests: [{ ...descriptor, platform: { os: 'a', architecture: 'b' } }],
  },
  config: {
    architecture: 'amd64',
    os: 'linux',
    config: { Env: ['A=b'], Cmd: ['x'], Labels: { a: 'b' }, Volumes: { '/v': {} } },
    rootfs: { type: 'layers', diff_ids: [descriptor.digest] },
    history: [{ created: 'now' }],
  },
};

/** A document with some of its values replaced by others. */
export function spoiled(document: object) {
  const odd = fc.oneof(
    fc.jsonValue(),
    fc.constantFrom(null, -1, 1e300, '__proto__', [], {}, 'a\0b'),
  );
  return fc
    .array(fc.tuple(fc.nat(), odd), { maxLength: 3 })
    .map((changes) => changes.reduce((json, [at, value]) => replaceAt(json, at, value), document));
}

function replaceAt(json: object, at: number, value: unknown): object {
  const places: [Record<string, unknown>, string][] = [];
  const copy = JSON.parse(
    JSON.stringify(json),
    function (this: Record<string, unknown>, key, item) {
      places.push([this, key]);
      return item;
    },
  );
  const [holder, key] = places[at % places.length] ?? [];
  if (holder && key) holder[key] = value;
  return copy;
}

/** No null is left, no text holds a NUL where the guest would see it, all digests are digests. */
export function expectChecked(value: unknown, key = ''): void {
  expect(value).not.toBeNull();
  if (key === 'digest' || key === 'diff_ids') {
    for (const each of [value].flat()) expect(isDigest(each)).toBe(true);
  }
  if (key === 'size') expect(Number.isSafeInteger(value)).toBe(true);
  if (['Env', 'Cmd', 'Entrypoint'].includes(key) && Array.isArray(value)) {
    expect(value.every((word) => typeof word === 'string' && !word.includes('\0'))).toBe(true);
  }
  if (typeof value !== 'object' || value === null) return;
  for (const [name, member] of Object.entries(value)) expectChecked(member, name);
}

/** Reads the same in all its forms. */
export function expectStable(reference: ImageReference): void {
  expect(parseReference(reference.toString())).toEqual(reference);
  expect(parseReference(reference.familiar())).toEqual(reference);
  expect(reference.tag ?? reference.digest).toBeDefined();
  expect(reference.repository).not.toMatch(/\.\.|\/\/|^\/|\0/);
}
