// Makes zstd frames for tests, also ones that no honest encoder would write. RFC 8878, 3.1.1.

/** A frame's header for a window of `1 << windowLog` bytes, with raw fields after it. */
export function frameHeader(windowLog: number, descriptor = 0, ...fields: number[]): Buffer {
  return Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor, (windowLog - 10) << 3, ...fields]);
}

/** The header of a frame without a window, whose content is the window. */
export function singleHeader(contentBytes: number): Buffer {
  const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0]);
  header.writeBigUInt64LE(BigInt(contentBytes), 5);
  return header;
}

/** A block; `size` is the recorded one. */
export function block(type: number, content: Buffer, last = false, size = content.length): Buffer {
  const header = Buffer.alloc(3);
  header.writeUIntLE((size << 3) | (type << 1) | Number(last), 0, 3);
  return Buffer.concat([header, content]);
}

export const rawBlock = (content: Buffer, last = false) => block(0, content, last);

/** A block of one byte, repeated. */
export const rleBlock = (times: number, last = false) => block(1, Buffer.of(65), last, times);

/** Twenty bytes that ask for 98,047 copies of 65,539 bytes each. */
export function endlessBlock(): Buffer {
  const sequences = Buffer.from([255, 0xff, 0xff]);
  // One literal; then literal lengths, offsets and match lengths of one code each, the last the longest there is.
  const content = [Buffer.of(1 << 3, 65), sequences, Buffer.of(0b01010100, 0, 0, 52, 1)];
  return block(2, Buffer.concat(content), true);
}
