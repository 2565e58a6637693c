// zstd where Node has none: fzstd, a decoder in JavaScript, on a thread of its own. A block of twenty bytes can keep it busy
// for a minute, so it never runs where others wait for their turn, and the thread can be ended at any moment.

import { once } from 'node:events';
import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import { VmforkError } from '../errors.js';
import { type FramePiece, framePieces } from './zstd-frames.js';

/** What the thread runs: one message with a piece in, one with what comes out of it back. */
const PROGRAM = `
const { parentPort, workerData } = require('node:worker_threads');
const { Decompress } = require(workerData.decoderPath);
let unpacked;
let decoder;
parentPort.on('message', ({ bytes, begins, ends }) => {
  unpacked = [];
  if (begins) decoder = new Decompress((block) => block.length > 0 && unpacked.push(block));
  try {
    decoder.push(bytes, ends);
    parentPort.postMessage({ unpacked }, unpacked.map(({ buffer }) => buffer));
  } catch ({ message }) {
    parentPort.postMessage({ failure: message });
  }
});`;

type Answer = { unpacked: Uint8Array[] } | { failure: string };

/** A stage of a pipeline, which gives a signal that fires when the pipeline fails or is destroyed. */
export async function* unpackZstd(
  source: AsyncIterable<Buffer>,
  { signal }: { signal?: AbortSignal } = {},
): AsyncGenerator<Uint8Array> {
  const decoderPath = createRequire(import.meta.url).resolve('fzstd');
  const worker = new Worker(PROGRAM, { eval: true, workerData: { decoderPath } });
  // The pipeline may fail while the thread is busy: it would be ended only when it answers.
  const stop = () => void worker.terminate();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    for await (const piece of framePieces(source)) yield* await unpackPiece(worker, piece, signal);
  } finally {
    signal?.removeEventListener('abort', stop);
    await worker.terminate();
  }
}

async function unpackPiece(
  worker: Worker,
  { bytes, begins, ends }: FramePiece,
  signal: AbortSignal | undefined,
): Promise<Uint8Array[]> {
  const answered = once(worker, 'message', { ...(signal && { signal }) });
  worker.postMessage({ bytes, begins, ends });
  const [answer] = (await answered) as [Answer];
  if ('unpacked' in answer) return answer.unpacked;
  throw new VmforkError('VMF_IMAGE_INVALID', `zstd: ${answer.failure}`);
}
