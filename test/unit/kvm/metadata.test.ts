import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createMetadata, parseMetadata } from '#src/kvm/metadata.js';

const agent = { generation: 1, build: 'b', kernel: '6.1', cpus: 1, bootNs: 5, bootNonce: '00' };
const metadata = createMetadata('guest', 3, agent, ['warm', 'warm']);

test('reads back what was written', () => {
  expect(parseMetadata(JSON.stringify(metadata))).toEqual(metadata);
});

test('another format is VMF_SNAPSHOT_INCOMPATIBLE', () => {
  expect(() => parseMetadata(JSON.stringify({ ...metadata, format: 2 }))).toThrow(
    expect.objectContaining({
      code: 'VMF_SNAPSHOT_INCOMPATIBLE',
      message: expect.stringMatching(/format 2/),
    }),
  );
});

test.each([
  ['', /not JSON/],
  ['null', /not an object/],
  [JSON.stringify({ ...metadata, cid: 'x' }), /metadata.cid is not a number/],
  [JSON.stringify({ ...metadata, agent: { ...agent, build: 1 } }), /agent.build is not a string/],
  [JSON.stringify({ ...metadata, agent: undefined }), /agent is not an object/],
  [JSON.stringify({ ...metadata, forkPoints: undefined }), /forkPoints is not a list of names/],
  [JSON.stringify({ ...metadata, forkPoints: ['no space'] }), /forkPoints is not a list of names/],
  [JSON.stringify({ ...metadata, forkPoints: Array(17).fill('x') }), /forkPoints is not a list/],
])('refuses %j and says why', (json, message) => {
  expect(() => parseMetadata(json)).toThrow(
    expect.objectContaining({
      code: 'VMF_SNAPSHOT_INVALID',
      message: expect.stringMatching(message),
    }),
  );
});

test('no JSON makes it fail in another way', () => {
  fc.assert(
    fc.property(fc.json(), (json) => {
      expect(() => parseMetadata(json)).toThrow(/snapshot/);
    }),
  );
});
