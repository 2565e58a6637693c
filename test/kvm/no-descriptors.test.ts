// A process that runs out of descriptors while it forks.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { beforeAll, expect, test } from 'vitest';
import { templateSnapshot } from '../helpers/kvm.js';

const run = promisify(execFile);

beforeAll(async () => {
  await (await templateSnapshot()).destroy();
});

test.each([0, 1])('forks without descriptors fail cleanly, with %i shells ready', async (ready) => {
  const limit = '--nofile=128:128'; // the hard one too: node raises the soft one to it
  const script = ['test/kvm/fixtures/no-descriptors.mjs', String(ready)];
  const { stdout } = await run('prlimit', [limit, process.execPath, ...script]);
  const { codes, ...after } = JSON.parse(stdout);
  expect(codes.length).toBeGreaterThan(0);
  expect(new Set(codes)).toEqual(new Set(['VMF_TOO_MANY_FILES']));
  expect(after).toEqual({ vms: 0, ready });
});
