// The files that say who a machine is, and what becomes of them when somebody inside has edited them.
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, Snapshot } from 'vmfork';
import { busyboxRootfs, warmedSnapshot } from '../helpers/images.js';

const FILES = ['/etc/machine-id', '/etc/hostname', '/etc/hosts'] as const;
// Longer and shorter than the agent's, and nothing at all.
const EDIT = `: >/etc/machine-id; echo own >/etc/hostname
for i in 1 2 3 4 5 6 7 8; do echo 10.0.0.$i host-$i; done >/etc/hosts`;
const HOSTS = Array.from({ length: 8 }, (_, i) => `10.0.0.${i + 1} host-${i + 1}\n`);
const EDITED = ['', 'own\n', HOSTS.join('')];
let snapshot: Snapshot;

beforeAll(async () => {
  snapshot = await warmedSnapshot(await busyboxRootfs());
});
afterAll(() => snapshot?.destroy());

/** What the files hold, in the container or in the guest beside it. */
async function filesOf(clone: Clone, where: 'container' | 'guest'): Promise<string[]> {
  const results = FILES.map(async (path) => {
    const { stdout } = await clone.exec(['cat', path], { in: where });
    return stdout;
  });
  return Promise.all(results);
}

test.each(['container', 'guest'] as const)(
  'files that were emptied or rewritten in the %s stay so, and forks go on',
  async (where) => {
    await using source = await snapshot.fork();
    source.start({ argv: ['cat'] });
    await source.exec(['sh', '-c', EDIT], { in: where });
    await using branch = await source.fork({ hostname: 'a-name-of-another-length' });
    await using usual = await source.fork();
    for (const clone of [source, branch, usual]) {
      await expect(clone.ping()).resolves.toBeGreaterThan(0);
      expect(await filesOf(clone, where)).toEqual(EDITED);
      // The others are the machine's as ever.
      const other = where === 'guest' ? 'container' : 'guest';
      const [machineId, hostname] = await filesOf(clone, other);
      expect({ machineId, hostname }).toEqual({
        machineId: `${clone.identity.machineId}\n`,
        hostname: `${clone.identity.hostname}\n`,
      });
    }
  },
);
