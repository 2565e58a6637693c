import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  encodeFrame,
  encodeHeader,
  type Frame,
  FrameParser,
  FrameType,
  HEADER_BYTES,
  MAX_DATA_BYTES,
  MAX_PAYLOAD_BYTES,
} from '#src/exec/frames.js';
import {
  encodeExec,
  encodeResume,
  encodeThaw,
  parseFailure,
  parseHello,
  parseResumed,
} from '#src/exec/messages.js';
import { encodeTlvs, Tag, TlvList } from '#src/exec/tlv.js';

const golden = new Map<string, Buffer>();
for (const line of readFileSync('test/golden/frames.txt', 'utf8').split('\n')) {
  const [name, hex] = line.split(' ');
  if (name && hex && !name.startsWith('#')) golden.set(name, Buffer.from(hex, 'hex'));
}

function bytesOf(name: string): Buffer {
  const bytes = golden.get(name);
  if (!bytes) throw new Error(`no golden frame ${name}`);
  return bytes;
}

function parseAll(...chunks: Buffer[]): Frame[] {
  const frames: Frame[] = [];
  const parser = new FrameParser();
  for (const chunk of chunks) parser.push(chunk, (frame) => frames.push(frame));
  return frames;
}

function parseOne(name: string): Frame {
  const [frame] = parseAll(bytesOf(name));
  if (!frame) throw new Error(`${name} is incomplete`);
  return frame;
}

function countUp(from: number, count: number): Buffer {
  return Buffer.from(Array.from({ length: count }, (_, index) => from + index));
}

describe('golden frames', () => {
  const known = [...golden.keys()].filter((name) => name !== 'unknown_type');

  test.each(known)('%s decodes and encodes to the same bytes', (name) => {
    const frame = parseOne(name);
    expect(encodeFrame(frame, frame.payload)).toEqual(bytesOf(name));
  });

  test('an unknown type from the guest is refused', () => {
    expect(() => parseOne('unknown_type')).toThrow(/frame type 200 is unknown/);
  });

  test('hello is understood', () => {
    expect(parseHello(parseOne('hello'))).toEqual({
      generation: 1,
      build: 'c0ffee',
      kernel: '6.1.0-vmfork',
      cpus: 2,
      bootNs: 1_500_000_000,
      bootNonce: countUp(0, 16).toString('hex'),
    });
  });

  test('resume is encoded', () => {
    const list = new TlvList(parseOne('resume').payload);
    const bytes = encodeResume(6, {
      generationId: countUp(0x10, 16),
      entropy: countUp(0x20, 32),
      realtimeNs: 1_700_000_000_123_456_789n,
      hostname: 'vmfork-0000002a',
      machineId: list.text(Tag.MACHINE_ID) ?? '',
      cid: 42,
      bootId: list.text(Tag.BOOT_ID) ?? '',
    });
    expect(bytes).toEqual(bytesOf('resume'));
    expect(encodeThaw(7)).toEqual(bytesOf('resume_thaw'));
  });

  test('resumed is understood', () => {
    expect(parseResumed(parseOne('resumed'))).toEqual({
      generationId: countUp(0x10, 16),
      cid: 42,
      realtimeNs: 1_700_000_000_123_460_000n,
      boottimeNs: 2_000_000_000n,
    });
  });

  test('failures are understood', () => {
    expect(parseFailure(parseOne('error_stream'))).toMatchObject({ errno: 2, stage: 'lookup' });
  });

  test('exec is encoded', () => {
    const payload = encodeExec({ argv: ['uname', '-a'], env: { PATH: '/usr/bin', LANG: 'C' } });
    expect(encodeFrame({ type: FrameType.EXEC, stream: 1, aux: 2 }, payload)).toEqual(
      bytesOf('exec'),
    );
  });

  test('every type has a golden frame', () => {
    const types = new Set(known.map((name) => parseOne(name).type));
    expect([...types].sort((a, b) => a - b)).toEqual(Object.values(FrameType));
  });
});

describe('FrameParser', () => {
  test('chunk borders do not matter', () => {
    const frame = fc.record({
      type: fc.constantFrom(...Object.values(FrameType)),
      stream: fc.nat(0xffff_ffff),
      aux: fc.nat(0xffff),
      value: fc.nat(0xffff_ffff),
      payload: fc.uint8Array({ maxLength: 64 }),
    });
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 6 }), fc.array(fc.nat(400)), (frames, cuts) => {
        const bytes = Buffer.concat(frames.map((one) => encodeFrame(one, one.payload)));
        const borders = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)), bytes.length];
        borders.sort((a, b) => a - b);
        const chunks = borders.slice(1).map((end, index) => bytes.subarray(borders[index], end));
        const parsed = parseAll(...chunks);
        expect(parsed).toEqual(
          frames.map((one) => ({ ...one, payload: Buffer.from(one.payload) })),
        );
      }),
    );
  });

  test('a payload that is all there is not copied', () => {
    const bytes = bytesOf('data_stdout');
    const [frame] = parseAll(bytes);
    expect(frame?.payload.buffer).toBe(bytes.buffer);
  });

  test.each([
    ['a length over 1 MiB', encodeHeader({ type: FrameType.LOG }, MAX_PAYLOAD_BYTES + 1)],
    ['DATA over 64 KiB', encodeHeader({ type: FrameType.DATA }, MAX_DATA_BYTES + 1)],
    ['type 0', encodeHeader({ type: 0 }, 0)],
    ['flags', Buffer.from(encodeHeader({ type: FrameType.PONG }, 0)).fill(1, 9, 10)],
  ])('refuses %s at the header, before any payload', (_, header) => {
    expect(header).toHaveLength(HEADER_BYTES);
    expect(() => parseAll(header)).toThrow(expect.objectContaining({ code: 'VMF_PROTOCOL' }));
  });

  test('random bytes either parse or are refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          parseAll(Buffer.from(bytes));
        } catch (error) {
          expect(error).toMatchObject({ code: 'VMF_PROTOCOL' });
        }
      }),
    );
  });
});

describe('TlvList', () => {
  test('gives back what was encoded, whatever unknown tags lie between', () => {
    const list = new TlvList(
      encodeTlvs([
        [999, 'x'],
        [Tag.CID, 7],
        [Tag.SIZE, 2n ** 40n],
        [Tag.TEXT, 'ä'],
      ]),
    );
    expect(list.u32(Tag.CID)).toBe(7);
    expect(list.u64(Tag.SIZE)).toBe(2n ** 40n);
    expect(list.text(Tag.TEXT)).toBe('ä');
    expect(list.bytes(Tag.PATH)).toBeUndefined();
  });

  test.each([
    ['a cut header', '0f0000'],
    ['a non-zero pad', '0f00010004000000aabbccdd'],
    ['a length beyond the end', '0f000000ffffffffaabbccdd'],
  ])('refuses %s', (_, hex) => {
    expect(() => new TlvList(Buffer.from(hex, 'hex'))).toThrow(
      expect.objectContaining({ code: 'VMF_PROTOCOL' }),
    );
  });

  test('refuses a number of the wrong size', () => {
    const list = new TlvList(encodeTlvs([[Tag.CID, 'abc']]));
    expect(() => list.u32(Tag.CID)).toThrow(/tag 15 has 3 bytes, must have 4/);
  });
});

test('an agent of another generation is refused', () => {
  const payload = encodeTlvs([[Tag.GENERATION_MIN, 2]]);
  const frame = { type: FrameType.HELLO, stream: 0, aux: 0, value: 3, payload };
  expect(() => parseHello(frame)).toThrow(expect.objectContaining({ code: 'VMF_AGENT_MISMATCH' }));
});
