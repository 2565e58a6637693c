// Numbers and texts in tar header blocks: octal, base-256, decimal of PAX records, and the checksum.
// Layout: POSIX.1-2017 pax, "ustar Interchange Format"; base-256: GNU tar manual, "Basic Tar Format".

export const BLOCK_BYTES = 512;

const CHECKSUM_OFFSET = 148;
const CHECKSUM_BYTES = 8;
const SPACE = 0x20;
const ZERO = 0x30;
const SEVEN = 0x37;

/** The text of a field up to its first zero byte, one character a byte. */
export function textField(block: Buffer, offset: number, length: number): string {
  const end = block.indexOf(0, offset);
  const limit = offset + length;
  return block.toString('latin1', offset, end < 0 || end > limit ? limit : end);
}

/** The number in a field, or undefined when it is none or too large to be exact. An empty field is 0. */
export function numberField(block: Buffer, offset: number, length: number): number | undefined {
  const first = block[offset] ?? 0;
  if (first & 0x80) return base256(block, offset, length, first);
  let at = offset;
  const end = offset + length;
  while (at < end && block[at] === SPACE) at++;
  let value = 0;
  for (; at < end; at++) {
    const byte = block[at] as number;
    if (byte === 0 || byte === SPACE) break;
    if (byte < ZERO || byte > SEVEN) return undefined;
    value = value * 8 + (byte - ZERO);
  }
  return Number.isSafeInteger(value) ? value : undefined;
}

/** Two's complement, big endian, of which the field's first bit only says that it is one; the second is the sign. */
function base256(block: Buffer, offset: number, length: number, first: number): number | undefined {
  const negative = (first & 0x40) !== 0;
  let value = BigInt(first & 0x7f);
  for (let at = offset + 1; at < offset + length; at++) {
    value = value * 256n + BigInt(block[at] as number);
  }
  if (negative) value -= 1n << BigInt(length * 8 - 1);
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : undefined;
}

/** Whether the sum of the header's bytes is the recorded one; some old archivers summed signed bytes. */
export function checksumMatches(block: Buffer): boolean {
  const recorded = numberField(block, CHECKSUM_OFFSET, CHECKSUM_BYTES);
  let sum = CHECKSUM_BYTES * SPACE;
  let high = 0;
  for (let at = 0; at < BLOCK_BYTES; at++) {
    if (at === CHECKSUM_OFFSET) at += CHECKSUM_BYTES;
    const byte = block[at] as number;
    sum += byte;
    high += byte >> 7;
  }
  return recorded === sum || recorded === sum - 256 * high;
}

/** A decimal number without sign, or undefined. */
export function decimal(text: string): number | undefined {
  if (!/^\d{1,16}$/.test(text)) return undefined;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : undefined;
}

export interface Time {
  /** Since 1970, may be negative. */
  seconds: number;
  nanoseconds: number;
}

const NS_DIGITS = 9;
const NS_PER_SECOND = 1e9;

/** A time of a PAX record: decimal seconds with sign and fraction; digits below the nanosecond are dropped. */
export function paxTime(text: string): Time | undefined {
  const match = /^(-?)(\d{1,16})(?:\.(\d*))?$/.exec(text);
  if (!match) return undefined;
  const whole = Number(match[2]);
  if (!Number.isSafeInteger(whole)) return undefined;
  const nanoseconds = Number((match[3] ?? '').slice(0, NS_DIGITS).padEnd(NS_DIGITS, '0'));
  if (match[1] === '') return { seconds: whole, nanoseconds };
  if (nanoseconds === 0) return { seconds: 0 - whole, nanoseconds };
  return { seconds: -whole - 1, nanoseconds: NS_PER_SECOND - nanoseconds };
}
