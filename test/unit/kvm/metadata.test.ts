import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createMetadata, parseMetadata, serializeMetadata } from '#src/kvm/metadata.js';

const agent = { generation: 1, build: 'b', kernel: '6.1', cpus: 1, bootNs: 5, bootNonce: '00' };
const main = {
  argv: ['sleep', '9'],
  env: ['A=1'],
  cwd: '/',
  user: '',
  stopSignal: 15,
  init: false,
  privileged: false,
  noNewPrivileges: false,
  readOnly: false,
  capabilities: (1n << 63n) | 5n,
  rlimits: [{ resource: 7, soft: 10n, hard: (1n << 64n) - 1n }],
  tmpfs: [],
  volumes: [],
};
const containment = {
  fixedDisks: 1,
  rootfs: { path: '/r', config: { Cmd: ['sh'] }, scratch: false },
  main,
};
const forkPoints = ['warm', 'warm'];
const facts = { guest: 'guest', cid: 3, generation: 2, agent, forkPoints, containment };
const metadata = createMetadata(facts);
const plain = JSON.parse(serializeMetadata(metadata));

test('reads back what was written', () => {
  expect(parseMetadata(serializeMetadata(metadata))).toEqual(metadata);
});

test('another format is VMF_SNAPSHOT_INCOMPATIBLE', () => {
  expect(() => parseMetadata(JSON.stringify({ ...plain, format: 2 }))).toThrow(
    expect.objectContaining({
      code: 'VMF_SNAPSHOT_INCOMPATIBLE',
      message: expect.stringMatching(/format 2/),
    }),
  );
});

test.each([
  ['', /not JSON/],
  ['null', /not an object/],
  [JSON.stringify({ ...plain, cid: 'x' }), /metadata.cid is not a number/],
  [JSON.stringify({ ...plain, agent: { ...agent, build: 1 } }), /agent.build is not a string/],
  [JSON.stringify({ ...plain, agent: undefined }), /agent is not an object/],
  [JSON.stringify({ ...plain, forkPoints: undefined }), /forkPoints is not a list of names/],
  [JSON.stringify({ ...plain, forkPoints: ['no space'] }), /forkPoints is not a list of names/],
  [JSON.stringify({ ...plain, containment: undefined }), /metadata.containment/],
  [
    JSON.stringify({ ...plain, containment: { ...plain.containment, fixedDisks: 5 } }),
    /fixedDisks/,
  ],
  [
    JSON.stringify({
      ...plain,
      containment: { ...plain.containment, main: { ...plain.containment.main, capabilities: 'x' } },
    }),
    /main.capabilities/,
  ],
  [JSON.stringify({ ...plain, forkPoints: Array(17).fill('x') }), /forkPoints is not a list/],
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
