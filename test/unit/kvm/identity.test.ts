import { describe, expect, test } from 'vitest';
import { FrameParser } from '#src/exec/frames.js';
import { stampTime } from '#src/exec/messages.js';
import { Tag, TlvList } from '#src/exec/tlv.js';
import {
  checkAcknowledged,
  createIdentity,
  encodeIdentity,
  FORK_RESUME,
  type ForkIdentity,
  IdentityStock,
} from '#src/kvm/identity.js';

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

test('an identity drawn ahead is given out once, with the time of that moment', async () => {
  let cid = 10;
  const stock = new IdentityStock(() => cid++);
  stock.refill();
  stock.refill();
  await new Promise((resolve) => setTimeout(resolve, 30));
  const before = Date.now();
  const taken = [stock.take(), stock.take(), stock.take('mine')];
  stock.refill();
  taken.push(stock.take('other'), stock.take());
  expect(taken.map(({ identity }) => identity.cid)).toEqual([10, 11, 12, 14, 13]);
  expect(new Set(taken.map(({ identity }) => identity.generationId)).size).toBe(5);
  for (const one of taken) {
    const list = resumeOf(one);
    expect(list.u32(Tag.CID)).toBe(one.identity.cid);
    expect(list.text(Tag.HOSTNAME)).toBe(one.identity.hostname);
    const realtimeMs = Number((list.u64(Tag.REALTIME_NS) ?? 0n) / 1_000_000n);
    expect(realtimeMs).toBeGreaterThanOrEqual(before);
  }
});

test('a time is written to the nanosecond', () => {
  const time = new DataView(new ArrayBuffer(8));
  const edges = [0, 1, 4294, 4295, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 1.7e12, 2 ** 43, 2 ** 44 - 1];
  const random = Array.from({ length: 10_000 }, () => Math.floor(Math.random() * 2 ** 44));
  for (const ms of [...edges, ...random]) {
    stampTime(time, ms);
    expect(time.getBigUint64(0, true)).toBe(BigInt(ms) * 1_000_000n);
  }
});

function resumeOf({ resume }: ForkIdentity): TlvList {
  const lists: TlvList[] = [];
  new FrameParser().push(resume, ({ value, payload }) => {
    expect(value).toBe(FORK_RESUME);
    lists.push(new TlvList(payload));
  });
  const [list] = lists;
  if (!list) throw new Error('incomplete');
  return list;
}

describe('checkAcknowledged', () => {
  const identity = createIdentity(9);
  const generationId = Buffer.from(identity.generationId, 'hex');
  const answer = { generationId, cid: 9, realtimeNs: 0n, boottimeNs: 0n };

  const own = { cid: 4, kernel: '6.1.99-vmfork' };
  const brought = { cid: 4, kernel: '6.1.0-42-cloud-amd64' };

  test('takes the clone’s CID', () => {
    expect(() => checkAcknowledged(identity, answer, own)).not.toThrow();
  });

  test.each([9, 4, 0, undefined])(
    'from another kernel also its parent’s CID or none: %s',
    (cid) => {
      expect(() => checkAcknowledged(identity, { ...answer, cid }, brought)).not.toThrow();
    },
  );

  test.each([
    ['another generation id', { ...answer, generationId: Buffer.alloc(16) }],
    ['no generation id', { ...answer, generationId: undefined }],
    ['a strange CID', { ...answer, cid: 5 }],
    ['a strange CID of another kernel', { ...answer, cid: 5 }, brought],
    ['the parent’s CID', { ...answer, cid: 4 }],
    ['no CID', { ...answer, cid: undefined }],
  ])('refuses %s', (_, wrong, parent = own) => {
    expect(() => checkAcknowledged(identity, wrong, parent)).toThrow(
      expect.objectContaining({ code: 'VMF_IDENTITY' }),
    );
  });
});
