// Bytes through one vsock connection, both ways: into a command's standard input and out of its standard output, and as
// files, which need no second process in the guest. The process's own memory must not grow with what passes through.

import { Readable } from 'node:stream';
import type { Clone, HostKind } from '#src/index.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const MB = 1e6;
const CHUNK_BYTES = 65_536;
// A PVM host interprets the guest's kernel: each packet costs it milliseconds.
const STREAM_CHUNKS: Record<HostKind, number> = { pvm: 256, hardware: 4096 };

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
    return { ...guestParameters(snapshot), stream_bytes: chunks * CHUNK_BYTES };
  },
};

async function measureDirections(run: CaseRun, clone: Clone, chunks: number): Promise<void> {
  const bytes = chunks * CHUNK_BYTES;
  const rate = async (name: string, transfer: () => Promise<number>) => {
    const start = now();
    const moved = await transfer();
    if (moved !== bytes) throw new Error(`${name}: ${moved} of ${bytes} bytes arrived`);
    run.samples.add(name, 'MB/s', bytes / MB / (msSince(start) / 1000));
  };
  await rate('in_mb_s', () => intoCommand(clone, chunks));
  await rate('out_mb_s', () => outOfCommand(clone, bytes));
  await rate('file_in_mb_s', () => intoFile(clone, chunks));
  await rate('file_out_mb_s', () => outOfFile(clone, bytes));
}

/** The command counts what it reads, so a byte that was lost is noticed. */
async function intoCommand(clone: Clone, chunks: number): Promise<number> {
  const { stdout } = await clone.exec(['wc', '-c'], { stdin: source(chunks) });
  return Number(stdout);
}

async function outOfCommand(clone: Clone, bytes: number): Promise<number> {
  const command = clone.spawn(['head', '-c', String(bytes), '/dev/zero'], { stdin: 'ignore' });
  let moved = 0;
  for await (const chunk of command.stdout) moved += (chunk as Buffer).length;
  await command.exited;
  return moved;
}

async function intoFile(clone: Clone, chunks: number): Promise<number> {
  await clone.writeFile('/dev/null', source(chunks));
  return chunks * CHUNK_BYTES;
}

async function outOfFile(clone: Clone, bytes: number): Promise<number> {
  return (await clone.readFile('/dev/zero', { limitBytes: bytes })).length;
}

function source(chunks: number): Readable {
  const chunk = Buffer.alloc(CHUNK_BYTES, 0x5a);
  return Readable.from(
    (function* () {
      for (let i = 0; i < chunks; i++) yield chunk;
    })(),
  );
}
