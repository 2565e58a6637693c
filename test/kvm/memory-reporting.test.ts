// Memory that a guest frees goes back to the host, and memory that it uses stays what it is.
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Clone, type Command, Engine, Snapshot } from 'vmfork';
import {
  askOnce,
  BOOT_TIMEOUT_MS,
  COMPANION_PORT,
  eventually,
  scale,
  startProgram,
} from '../helpers/kvm.js';

const PAGE_BYTES = 4096;
const KEPT_PAGES = 250;
const FREED_PAGES = scale({ full: 10_240, nested: 5120, interpreted: 2048 });
const MEMORY_MIB = 128;
// Linux reports free blocks of 64 KiB and more (page_reporting_process_zone() in mm/page_reporting.c): what smaller ones
// hold, and what the guest has used again in the meantime, stays.
const RETURNED_BYTES = (FREED_PAGES * PAGE_BYTES * 3) / 4;
const directory = mkdtempSync(join(tmpdir(), 'vmfork-reporting-'));
const engine = new Engine();
let snapshot: Snapshot;

beforeAll(async () => {
  const options = { memoryMiB: MEMORY_MIB, bootTimeoutMs: BOOT_TIMEOUT_MS };
  snapshot = await Snapshot.cached({ engine, ...options });
}, BOOT_TIMEOUT_MS);
afterAll(async () => {
  await snapshot?.destroy();
  await engine.close();
  rmSync(directory, { recursive: true });
});

const privateBytes = async (clone: Clone) => (await clone.memory()).privateBytes;

async function savedBytes(source: Snapshot, name: string): Promise<number> {
  await source.save(join(directory, name));
  return statSync(join(directory, name, 'memory')).blocks * 512;
}

/** Resolves when the process has written to all of its pages. */
async function fillPages(clone: Clone, pages: number): Promise<Command> {
  const command = clone.spawn(['/tmp/companion', String(COMPANION_PORT + 1), String(pages)]);
  await once(command.stdout, 'data');
  return command;
}

test('what a process frees leaves the clone and its snapshots, what others use does not', async () => {
  await using clone = await snapshot.fork();
  await startProgram(clone, 'companion', [String(COMPANION_PORT), String(KEPT_PAGES)]);
  const program = await fillPages(clone, FREED_PAGES);
  const filled = await privateBytes(clone);
  expect(filled).toBeGreaterThan(FREED_PAGES * PAGE_BYTES);
  program.kill('SIGKILL');
  await program.wait();
  const fell = async () => (await privateBytes(clone)) < filled - RETURNED_BYTES;
  expect(await eventually(fell, 30_000)).toBe(true);

  expect(engine.memory.layerBytes).toBe(0);
  await using later = await clone.snapshot();
  expect(engine.memory.layerBytes).toBeGreaterThan(KEPT_PAGES * PAGE_BYTES);
  // A layer also holds small gaps between what was written, which keeps its runs few.
  expect(engine.memory.layerBytes).toBeLessThan(filled - RETURNED_BYTES / 2);
  const before = await savedBytes(snapshot, 'before');
  expect(await savedBytes(later, 'later')).toBeLessThan(before + filled - RETURNED_BYTES);
  await using child = await later.fork();
  await fillPages(child, FREED_PAGES / 4);
  for (const vm of [clone, child]) expect(await askOnce(vm, 'check 0')).toBe('same');
});
