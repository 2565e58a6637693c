// The stored kernel: what compaction keeps of a linked ELF image, and what it leaves out.
import { expect, test } from 'vitest';

interface Elf {
  compactElf(file: Buffer): Buffer;
  readSegments(file: Buffer): { type: number; offset: number; size: number; header: Buffer }[];
}
const script = new URL('../../../guest/kernel/elf.mjs', import.meta.url).href;
const { compactElf, readSegments } = (await import(script)) as Elf;

const load = 1;
const note = 4;
const gnuStack = 0x6474e551;

/** An ELF file with one text segment of `text`, loaded from a 2 MiB aligned offset, and a note inside it. */
function image(text: Buffer): Buffer {
  const textOffset = 0x200000;
  const file = Buffer.alloc(textOffset + text.length);
  file.writeUInt32BE(0x7f454c46, 0);
  file[4] = 2;
  file[5] = 1;
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(3, 56);
  const segments = [
    [load, textOffset, text.length],
    [note, textOffset + 8, 16],
    [gnuStack, 0, 0],
  ] as const;
  segments.forEach(([type, offset, size], index) => {
    const at = 64 + index * 56;
    file.writeUInt32LE(type, at);
    file.writeBigUInt64LE(BigInt(offset), at + 8);
    file.writeBigUInt64LE(0x1000000n, at + 24);
    file.writeBigUInt64LE(BigInt(size), at + 32);
    file.writeBigUInt64LE(BigInt(size), at + 40);
  });
  text.copy(file, textOffset);
  return file;
}

test('keeps the bytes and the addresses of loaded segments, without the gaps', () => {
  const text = Buffer.from(Array.from({ length: 5000 }, (_, index) => (index % 255) + 1));
  const compact = compactElf(image(text));
  const [first, second, ...rest] = readSegments(compact);

  expect(compact.length).toBeLessThan(3 * 4096 + 1);
  expect(rest).toEqual([]);
  expect([first?.type, second?.type]).toEqual([load, note]);
  expect(first?.header.readBigUInt64LE(24)).toBe(0x1000000n);
  const at = first?.offset ?? 0;
  expect(compact.subarray(at, at + text.length).equals(text)).toBe(true);
  expect(second?.offset).toBe(at + 8);
});

test('stores no zeros at a segment’s end, but keeps its size in memory', () => {
  const [segment] = readSegments(
    compactElf(image(Buffer.concat([Buffer.alloc(4096, 7), Buffer.alloc(8192)]))),
  );

  expect(segment?.size).toBe(4096);
  expect(segment?.header.readBigUInt64LE(40)).toBe(12288n);
});

test('refuses what is not a 64-bit little-endian ELF file', () => {
  expect(() => compactElf(Buffer.alloc(128))).toThrow(/not a 64-bit/);
});
