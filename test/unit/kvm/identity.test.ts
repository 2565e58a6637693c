import { describe, expect, test } from 'vitest';
import { FrameParser } from '#src/exec/frames.js';
import { Tag, TlvList } from '#src/exec/tlv.js';
import { checkAcknowledged, createIdentity, encodeIdentity } from '#src/kvm/identity.js';

test('no two identities have anything in common', () => {
  const identities = Array.from({ length: 1000 }, (_, index) => createIdentity(index));
  const values = identities.flatMap(({ generationId, hostname, machineId, bootId }) => [
    generationId,
    hostname,
    machineId,
    bootId,
  ]);
  expect(new Set(values).size).toBe(4000);
});

test('ids have the forms that Linux uses', () => {
  const { generationId, hostname, machineId, bootId } = createIdentity(3);
  expect(generationId).toMatch(/^[0-9a-f]{32}$/);
  expect(hostname).toBe(`vmfork-${generationId.slice(0, 8)}`);
  expect(machineId).toMatch(/^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
  expect(bootId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(createIdentity(3, 'mine').hostname).toBe('mine');
});

test('a RESUME carries the identity, fresh entropy and the time of its making', () => {
  const identity = createIdentity(77);
  const [first, second] = [encodeIdentity(5, identity), encodeIdentity(5, identity)].map(
    (bytes) => {
      let list: TlvList | undefined;
      new FrameParser().push(bytes, (frame) => {
        expect(frame.value).toBe(5);
        list = new TlvList(frame.payload);
      });
      if (!list) throw new Error('incomplete');
      return list;
    },
  );
  expect(first?.u32(Tag.CID)).toBe(77);
  expect(first?.text(Tag.HOSTNAME)).toBe(identity.hostname);
  expect(first?.bytes(Tag.ENTROPY)).toHaveLength(64);
  expect(first?.bytes(Tag.ENTROPY)).not.toEqual(second?.bytes(Tag.ENTROPY));
  const ageMs = Date.now() - Number((first?.u64(Tag.REALTIME_NS) ?? 0n) / 1_000_000n);
  expect(ageMs).toBeGreaterThanOrEqual(0);
  expect(ageMs).toBeLessThan(1000);
});

describe('checkAcknowledged', () => {
  const identity = createIdentity(9);
  const generationId = Buffer.from(identity.generationId, 'hex');
  const answer = { generationId, cid: 9, realtimeNs: 0n, boottimeNs: 0n };

  test.each([9, 4, 0, undefined])('takes the clone’s CID, its parent’s or none: %s', (cid) => {
    expect(() => checkAcknowledged(identity, { ...answer, cid }, 4)).not.toThrow();
  });

  test.each([
    ['another generation id', { ...answer, generationId: Buffer.alloc(16) }],
    ['no generation id', { ...answer, generationId: undefined }],
    ['a strange CID', { ...answer, cid: 5 }],
  ])('refuses %s', (_, wrong) => {
    expect(() => checkAcknowledged(identity, wrong, 4)).toThrow(
      expect.objectContaining({ code: 'VMF_IDENTITY' }),
    );
  });
});
