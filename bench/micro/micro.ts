// Costs of pure JavaScript and of one call into the addon, per operation, with package `benchmark`. It repeats each piece
// until its clock can resolve it; its samples are means of such repetitions, so p99 here is the worst repetition, not call.

import Benchmark from 'benchmark';
import { encodeFrame, type Frame, FrameParser, FrameType } from '#src/exec/frames.js';
import { parseResumed } from '#src/exec/messages.js';
import { encodeTlvs, Tag } from '#src/exec/tlv.js';
import { createIdentity, encodeIdentity } from '#src/kvm/identity.js';
import { loadNative } from '#src/native.js';
import type { CaseRun, Parameters } from '../harness/case.js';

const NS_PER_SECOND = 1e9;
const SMALL_BYTES = 64;
const LARGE_BYTES = 65_536;
const FRAMES_PER_CHUNK = 64;
// Seconds per piece; `benchmark` spreads its samples over it.
const MAX_SECONDS = 1;

/** Measures every piece; `benchmark` itself decides how often. */
export async function measure(run: CaseRun): Promise<Parameters> {
  for (const [name, piece] of Object.entries(pieces())) {
    for (const seconds of await timePiece(piece)) {
      run.samples.add(`${name}_ns`, 'ns', seconds * NS_PER_SECOND);
    }
    run.progress(name);
  }
  return { small_bytes: SMALL_BYTES, large_bytes: LARGE_BYTES, frames_per_chunk: FRAMES_PER_CHUNK };
}

/** Name to piece. */
function pieces(): Record<string, () => void> {
  const small = Buffer.alloc(SMALL_BYTES);
  const large = Buffer.alloc(LARGE_BYTES);
  const header = { type: FrameType.DATA, stream: 1, aux: 1 };
  const smallFrames = Buffer.concat(
    Array.from({ length: FRAMES_PER_CHUNK }, () => encodeFrame(header, small)),
  );
  const largeFrame = encodeFrame(header, large);
  const parser = new FrameParser();
  const native = loadNative();
  const identity = createIdentity(3);
  const resumed = resumedFrame();
  const drop = () => {};
  return {
    frame_encode_small: () => encodeFrame(header, small),
    frame_encode_large: () => encodeFrame(header, large),
    frames_parse_chunk: () => parser.push(smallFrames, drop),
    frame_parse_large: () => parser.push(largeFrame, drop),
    resumed_parse: () => parseResumed(resumed),
    identity_create: () => createIdentity(3),
    identity_encode: () => encodeIdentity(1, identity),
    addon_call: () => native.version(),
  };
}

/** The answer that every fork waits for. */
function resumedFrame(): Frame {
  const payload = encodeTlvs([
    [Tag.GENERATION_ID, Buffer.alloc(16)],
    [Tag.REALTIME_NS, 1n],
    [Tag.CID, 3],
    [Tag.BOOTTIME_NS, 1n],
  ]);
  return { type: FrameType.RESUMED, stream: 0, aux: 0, value: 1, payload };
}

/** Seconds per call, one value a sample. */
function timePiece(piece: () => void): Promise<number[]> {
  return new Promise((resolve, reject) => {
    const benchmark = new Benchmark(piece, { maxTime: MAX_SECONDS });
    benchmark.on('error', () => reject(benchmark.error));
    benchmark.on('complete', () => resolve(benchmark.stats.sample));
    benchmark.run({ async: true });
  });
}
