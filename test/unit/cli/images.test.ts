// `vmfork pull | import | images | inspect | rmi` as programs, with a store of their own and a real registry.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { prepareRootfs } from '#src/oci/prepare.js';
import { ImageStore } from '#src/oci/store.js';
import { program, vmfork } from '../../helpers/cli.js';
import { type Layers, makeLayout, Scratch, skopeo } from '../../helpers/oci/images.js';
import { Registry } from '../../helpers/oci/registry.js';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const scratch = new Scratch();
let layers: Layers;
let registry: Registry;
let pulled: string;

beforeAll(async () => {
  vi.stubEnv('VMFORK_CACHE_DIR', scratch.file('cache'));
  vi.stubEnv('DOCKER_CONFIG', scratch.file('no-docker-config'));
  layers = makeLayout(scratch, 'layout');
  registry = await Registry.start(scratch, 'registry');
  pulled = `${registry.host}/app:v1`;
  await skopeo(`oci:${scratch.file('layout')}:v1`, `docker://${pulled}`, '--dest-tls-verify=false');
});
afterAll(async () => {
  await registry?.stop();
  vi.unstubAllEnvs();
  scratch.remove();
});

/** Runs it with --json and reads the one document. */
async function document(...args: string[]): Promise<unknown> {
  const { code, stdout } = await vmfork([...args, '--json']);
  expect(code).toBe(0);
  return JSON.parse(stdout);
}

test('an image is pulled and imported, listed, inspected and removed', async () => {
  const { code, stdout, stderr } = await vmfork(['pull', pulled]);
  expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining('sha256:') });
  // Plain lines where there is no terminal, and a control sequence in none.
  expect(stderr).not.toContain('\x1b');
  const imported = await document('import', scratch.file('layout'), '--reference', 'mine:v2');
  expect(imported).toMatchObject({ reference: 'docker.io/library/mine:v2' });
  const { stdout: table } = await vmfork(['images']);
  expect(table).toMatch(/^IMAGE.*\n(.*\n)*mine:v2 /);
  expect(table).toContain(pulled);
  const { stdout: shown } = await vmfork(['inspect', 'mine:v2']);
  expect(JSON.parse(shown).config.rootfs.diff_ids).toEqual(layers.diffIds);
  expect(await document('inspect', 'mine:v2')).toEqual(JSON.parse(shown));
  expect(await document('rmi', pulled, 'mine:v2')).toMatchObject({ removed: [pulled, 'mine:v2'] });
  expect(await document('images')).toEqual([]);
});

test('progress is lines of JSON for a program, and bars on a terminal', async () => {
  const { stderr } = await vmfork(['pull', pulled, '--json']);
  const steps = stderr.trim().split('\n');
  const last = JSON.parse(steps.at(-1) ?? '') as { doneBytes: number; totalBytes: number };
  expect(steps.map((line) => JSON.parse(line).phase)).toContain('download');
  expect(last).toMatchObject({ phase: 'done', doneBytes: last.totalBytes });
  await vmfork(['rmi', pulled]);
  // script(1) gives it a terminal, and writes what appears there.
  const command = `'${process.execPath}' '${program}' pull ${pulled}`;
  const options = ['--quiet', '--return', '--command', command, '/dev/null'];
  const { status, stdout: screen } = spawnSync('script', options, { encoding: 'utf8' });
  expect(status).toBe(0);
  expect(screen).toMatch(/█+ {2}.* of /);
  expect(screen).toContain('\x1b');
  expect(screen).toContain(pulled);
  await vmfork(['rmi', pulled]);
});

test('removing an image frees the root filesystem that was built from it', async () => {
  await document('import', scratch.file('layout'), '--reference', 'built');
  const { path, sizeBytes } = await prepareRootfs(await (await ImageStore.open()).inspect('built'));
  const { freedBytes, ...removed } = (await document('rmi', 'built')) as { freedBytes: number };
  expect(removed).toEqual({ removed: ['built'], removedBlobs: 4, removedRootfs: 1 });
  expect(freedBytes).toBeGreaterThan(sizeBytes);
  expect(existsSync(path)).toBe(false);
});

test('what cannot be pulled or imported is told by its code', async () => {
  const missing = await vmfork(['pull', `${registry.host}/nothing`]);
  expect(missing.code).toBe(1);
  expect(missing.stderr).toContain('VMF_IMAGE_NOT_FOUND');
  const nowhere = await vmfork(['import', scratch.file('nowhere')]);
  expect(nowhere.code).toBe(1);
  expect(nowhere.stderr).toMatch(/VMF_/);
});
