// A large stream through something that echoes it: nothing is lost on the way, and little is under way at a time.
import { createHash, randomBytes } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect } from 'vitest';

const MIB = 1024 * 1024;
// Buffers of both streams, the sockets and the guest's pipes hold far less together.
const MOST_UNDER_WAY_BYTES = 16 * MIB;

/** Sends so much into `input`, ends it, and reads `output` to its end. */
export async function expectEcho(
  input: Writable,
  output: Readable & { readonly bytesRead: number },
  totalMiB: number,
): Promise<void> {
  const before = output.bytesRead;
  const sent = createHash('sha256');
  const received = createHash('sha256');
  const chunk = randomBytes(MIB);
  let peakBytes = 0;
  const source = async function* () {
    for (let i = 0; i < totalMiB; i++) {
      chunk.writeUInt32LE(i);
      sent.update(chunk);
      peakBytes = Math.max(peakBytes, (i + 1) * MIB - (output.bytesRead - before));
      yield Buffer.from(chunk);
    }
  };
  await Promise.all([pipeline(source, input, { end: true }), pipeline(output, received)]);
  expect(output.bytesRead - before).toBe(totalMiB * MIB);
  expect(received.digest('hex')).toBe(sent.digest('hex'));
  expect(peakBytes).toBeLessThan(MOST_UNDER_WAY_BYTES);
}
