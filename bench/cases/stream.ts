// Bytes through one vsock connection, both ways: to and from the agent itself, and through it into a command's standard
// input and out of its standard output, which adds a pipe and a second process in the guest. The memory of this process
// must not grow with what passes through.

import { Readable } from 'node:stream';
import type { Clone, HostKind } from '#src/index.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const MB = 1e6;
const CHUNK_BYTES = 65_536;
// A PVM host interprets the guest's kernel: each packet costs it milliseconds.
const STREAM_CHUNKS: Record<HostKind, number> = { pvm: 256, hardware: 4096 };
const COMMAND_SHARE = 8;

export const stream: BenchCase = {
  name: 'stream',
  summary: 'throughput of one vsock connection, in and out',
  defaultN: 3,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await using clone = await snapshot.fork();
    const chunks = STREAM_CHUNKS[snapshot.info.hostKind];
    const before = process.memoryUsage().rss;
    for (let i = 0; i < run.n; i++) {
      await measureDirections(run, clone, chunks);
      run.progress(`${i + 1} of ${run.n}`);
    }
    const grown = (process.memoryUsage().rss - before) / 2 ** 20;
    run.samples.add('rss_growth_mib', 'MiB', Math.max(0, grown));
    const streamBytes = chunks * CHUNK_BYTES;
    return {
      ...guestParameters(snapshot),
      stream_bytes: streamBytes,
      command_bytes: streamBytes / COMMAND_SHARE,
    };
  },
};

async function measureDirections(run: CaseRun, clone: Clone, chunks: number): Promise<void> {
  const rate = async (name: string, count: number, transfer: Transfer) => {
    const bytes = count * CHUNK_BYTES;
    const start = now();
    const moved = await transfer(clone, count);
    if (moved !== bytes) throw new Error(`${name}: ${moved} of ${bytes} bytes arrived`);
    run.samples.add(name, 'MB/s', bytes / MB / (msSince(start) / 1000));
    run.progress(name);
  };
  await rate('in_mb_s', chunks, intoAgent);
  await rate('out_mb_s', chunks, outOfAgent);
  await rate('command_in_mb_s', chunks / COMMAND_SHARE, intoCommand);
  await rate('command_out_mb_s', chunks / COMMAND_SHARE, outOfCommand);
}

/** Moves so many chunks; returns the bytes that arrived. */
type Transfer = (clone: Clone, chunks: number) => Promise<number>;

async function intoAgent(clone: Clone, chunks: number): Promise<number> {
  await clone.writeFile('/dev/null', source(chunks));
  return chunks * CHUNK_BYTES;
}

async function outOfAgent(clone: Clone, chunks: number): Promise<number> {
  return (await clone.readFile('/dev/zero', { limitBytes: chunks * CHUNK_BYTES })).length;
}

/** The command counts what it reads, so a byte that was lost is noticed. */
async function intoCommand(clone: Clone, chunks: number): Promise<number> {
  const { stdout } = await clone.exec(['wc', '-c'], { stdin: source(chunks) });
  return Number(stdout);
}

async function outOfCommand(clone: Clone, chunks: number): Promise<number> {
  const argv = ['head', '-c', String(chunks * CHUNK_BYTES), '/dev/zero'];
  const command = clone.spawn(argv, { stdin: 'ignore' });
  let moved = 0;
  for await (const chunk of command.stdout) moved += (chunk as Buffer).length;
  await command.exited;
  return moved;
}

function source(chunks: number): Readable {
  const chunk = Buffer.alloc(CHUNK_BYTES, 0x5a);
  return Readable.from(
    (function* () {
      for (let i = 0; i < chunks; i++) yield chunk;
    })(),
  );
}
