// The vector registers of programs belong to them, whatever else runs in the guest and however often it is forked.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, Snapshot } from 'vmfork';
import { scale, templateSnapshot } from '../helpers/kvm.js';
import { buildTestPrograms } from './programs/build.mjs';

const PROGRAM = '/tmp/vectors';
let snapshot: Snapshot;
let clone: Clone;

beforeAll(async () => {
  snapshot = await templateSnapshot();
  clone = await snapshot.fork();
  const program = readFileSync(join(buildTestPrograms(), 'vectors'));
  await clone.writeFile(PROGRAM, program, { mode: 0o755 });
});
afterAll(async () => {
  await clone?.destroy();
  await snapshot?.destroy();
});

const rounds = String(scale({ full: 200, nested: 3, interpreted: 3 }));

test('programs that take turns and take signals keep their vector registers', async () => {
  const runs = ['1', '2', '3', '4'].map((seed) => clone.exec([PROGRAM, seed, rounds]));
  for (const { stdout, exitCode, signal } of await Promise.all(runs)) {
    expect(stdout).toMatch(/^same (sse|avx|avx512)\n$/);
    expect({ exitCode, signal }).toEqual({ exitCode: 0, signal: null });
  }
});
