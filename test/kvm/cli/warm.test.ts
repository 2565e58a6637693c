// The warmed snapshots that `vmfork run` leaves for its next runs: made once, bounded, gone with their image, and nothing
// of a killed maker stays.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { listWarmed } from '#src/container/warmed.js';
import { removeUnused } from '#src/container/warming.js';
import { cacheDirectory } from '#src/kvm/guest.js';
import { vmfork } from '../../helpers/cli.js';
import { eventually, templateSnapshot } from '../../helpers/kvm.js';

const IMAGE = 'busybox';
const ENTRY = /^[0-9a-f]{16}$/;
const warmer = fileURLToPath(new URL('../../../dist/cli/warmer.js', import.meta.url));
const cache = mkdtempSync(join(tmpdir(), 'vmfork-warm-'));
const snapshots = join(cache, 'snapshots');
let digest: string;

// A cache of its own, but for what takes long to make.
beforeAll(async () => {
  await (await templateSnapshot()).destroy();
  for (const part of ['guest', 'templates']) {
    mkdirSync(join(cacheDirectory(), part), { recursive: true });
    symlinkSync(join(cacheDirectory(), part), join(cache, part));
  }
  vi.stubEnv('VMFORK_CACHE_DIR', cache);
});
afterAll(async () => {
  // What a run left behind may still be at work.
  expect(
    await eventually(async () => !names().some((name) => name.endsWith('-turn')), 30_000),
  ).toBe(true);
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true });
});

function names(): string[] {
  try {
    return readdirSync(snapshots);
  } catch {
    return [];
  }
}

const startWarmer = () => spawn(process.execPath, [warmer, JSON.stringify({ digest })]);
const runJson = async (...options: string[]) =>
  JSON.parse((await vmfork(['run', '--json', ...options, IMAGE, 'true'])).stdout);

test('a run from a cold image leaves a warmed one, unless told not to', async () => {
  expect(await runJson('--no-warm')).toMatchObject({ exitCode: 0, warmed: false });
  expect(names()).toEqual([]);
  expect(await runJson()).toMatchObject({ exitCode: 0, warmed: false });
  expect(await eventually(async () => names().some((name) => ENTRY.test(name)), 60_000)).toBe(true);
  expect(await runJson()).toMatchObject({ exitCode: 0, warmed: true });
  const [entry, ...others] = await listWarmed();
  expect(others).toEqual([]);
  expect(entry).toMatchObject({ automatic: true, memoryMiB: 128, vcpus: 1 });
  digest = entry?.digest ?? '';
});

test('of several makers one works, and what a killed one leaves is removed by the next', async () => {
  rmSync(snapshots, { recursive: true, force: true });
  const killed = startWarmer();
  expect(await eventually(async () => names().length > 0, 30_000)).toBe(true);
  killed.kill('SIGKILL');
  await once(killed, 'exit');
  expect(names()).toEqual([expect.stringMatching(/-turn$/)]);
  const codes = await Promise.all(
    [startWarmer(), startWarmer(), startWarmer()].map(
      async (child) => (await once(child, 'exit'))[0],
    ),
  );
  expect(codes).toEqual([0, 0, 0]);
  // That all three gave way to each other is allowed.
  if (names().length === 0) await once(startWarmer(), 'exit');
  expect(names()).toEqual([expect.stringMatching(ENTRY)]);
});

test('automatic ones are bounded and replaced when outdated; others are kept', async () => {
  const current = names().find((name) => !name.startsWith('0000'));
  const add = (id: string, changes: object, usedAt: string) => {
    cpSync(join(snapshots, `${current}`), join(snapshots, id), { recursive: true });
    const facts = join(snapshots, id, 'warmed.json');
    writeFileSync(
      facts,
      JSON.stringify({ ...JSON.parse(readFileSync(facts, 'utf8')), ...changes }),
    );
    utimesSync(facts, new Date(usedAt), new Date(usedAt));
  };
  add('00000000000000a0', {}, '2020-01-01');
  add('00000000000000a1', {}, '2020-01-02');
  add('00000000000000b0', { environment: 'another' }, '2099-01-01');
  add('00000000000000c0', { environment: 'another', automatic: false }, '2020-01-01');
  // The copies are not sparse.
  const bytes = new Map((await listWarmed()).map(({ id, storedBytes }) => [id, storedBytes]));
  await removeUnused((bytes.get(`${current}`) ?? 0) + (bytes.get('00000000000000a1') ?? 0));
  expect(names()).toEqual(['00000000000000a1', '00000000000000c0', current].sort());
});

test('an image that cannot be warmed is not tried again at once', async () => {
  const [id] = names().filter((name) => !name.startsWith('0000'));
  rmSync(snapshots, { recursive: true });
  mkdirSync(snapshots);
  writeFileSync(join(snapshots, `${id}.failed`), '');
  expect(await runJson()).toMatchObject({ warmed: false });
  expect(names()).toEqual([`${id}.failed`]);
});

test('they go with their image', async () => {
  rmSync(snapshots, { recursive: true });
  await once(startWarmer(), 'exit');
  expect(await listWarmed()).toHaveLength(1);
  expect(await vmfork(['rmi', IMAGE])).toMatchObject({ code: 0 });
  expect(await listWarmed()).toEqual([]);
});
