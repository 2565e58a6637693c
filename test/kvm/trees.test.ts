// Trees of forks: branches, relations, lifetimes, races. Whatever goes first, the others live on, and nothing is left over.
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Clone, CloneScope, Engine, type Snapshot, Template } from 'vmfork';
import { Deferred } from '#src/waiting.js';
import { busyboxRootfs } from '../helpers/images.js';
import {
  askOnce,
  BOOT_TIMEOUT_MS,
  COMPANION_PORT,
  destroyAll,
  eventually,
  inABusyProgram,
  layersHeld,
  startProgram,
  templateSnapshot,
} from '../helpers/kvm.js';

const WRITTEN_PAGES = 500;
let base: Snapshot;

beforeAll(async () => {
  base = await templateSnapshot();
});
afterAll(() => base?.destroy());

const read = async (vm: Clone, path: string) => (await vm.readFile(path)).toString();

describe('relations', () => {
  test('parents, children, sources and generations are known while they live', async () => {
    expect(base).toMatchObject({ generation: 0, source: null, destroyed: false });
    const first = await base.fork();
    const frozen = await first.snapshot();
    const second = await frozen.fork();
    expect(first).toMatchObject({ generation: 1, parent: base, origin: null, scope: null });
    expect(frozen).toMatchObject({ generation: 1, source: first, children: [second] });
    expect(second).toMatchObject({ generation: 2, parent: frozen, origin: first });
    expect(base.children).toEqual([first]);
    await first.destroy();
    expect(base.children).toEqual([]);
    expect(frozen.source).toBeNull();
    expect(second.origin).toBeNull();
    await frozen.destroy();
    expect(second.parent).toBeNull();
    await second.destroy();
    expect(frozen.children).toEqual([]);
  });

  test('a branch has all of its source, which goes on, and neither sees the other afterwards', async () => {
    await using source = await base.fork();
    await source.writeFile('/tmp/before', 'both');
    const [one, two] = (await source.fork({ count: 2 })) as [Clone, Clone];
    expect(one).toMatchObject({ generation: 2, origin: source, parent: null });
    await one.writeFile('/tmp/after', 'one');
    await source.writeFile('/tmp/after', 'source');
    expect(await read(one, '/tmp/before')).toBe('both');
    expect(await read(one, '/tmp/after')).toBe('one');
    expect(await read(source, '/tmp/after')).toBe('source');
    await expect(two.readFile('/tmp/after')).rejects.toMatchObject({ code: 'VMF_GUEST_FILE' });
    const ids = [source, one, two].map(({ identity }) => identity.generationId);
    expect(new Set(ids).size).toBe(3);
    await destroyAll([one, two]);
  });

  test('a template can be branched', async () => {
    await using template = await Template.boot({ bootTimeoutMs: BOOT_TIMEOUT_MS });
    expect(template.generation).toBe(0);
    await using clone = await template.fork({ hostname: 'branch' });
    expect(clone).toMatchObject({ generation: 1, origin: template });
    expect(await read(clone, '/etc/hostname')).toContain('branch');
    await template.ping();
  });

  test('parents may go before their children, and frozen memory goes with its last user', async () => {
    const before = layersHeld();
    const first = await base.fork();
    await first.writeFile('/tmp/one', '1');
    const second = await first.fork();
    await first.destroy();
    await second.writeFile('/tmp/two', '2');
    const third = await second.fork();
    await second.destroy();
    expect((await read(third, '/tmp/one')) + (await read(third, '/tmp/two'))).toBe('12');
    expect(layersHeld()).toBeGreaterThan(before);
    await third.destroy();
    expect(await eventually(async () => layersHeld() === before, 10_000)).toBe(true);
  });

  test('a terminal goes on in the source, and in a branch with nobody at it', async () => {
    await using source = await base.fork();
    const asking = 'while read -r word; do echo "$word" >/tmp/word; echo "got $word"; done; exit 5';
    const terminal = source.spawn(['sh', '-c', asking], { pty: { columns: 90, rows: 20 } });
    let output = '';
    terminal.stdout.on('data', (chunk) => {
      output += chunk;
    });
    const ask = async (word: string) => {
      terminal.stdin?.write(`${word}\n`);
      while (!output.includes(`got ${word}`)) await once(terminal.stdout, 'data');
    };
    const size = async (vm: Clone) => (await vm.exec(['stty', '-F', '/dev/pts/0', 'size'])).stdout;
    await ask('before');
    await using branch = await source.fork();
    await ask('after');
    terminal.resize({ columns: 100, rows: 30 });
    expect(await eventually(async () => (await size(source)) === '30 100\n', 10_000)).toBe(true);
    expect(await read(source, '/tmp/word')).toBe('after\n');
    expect(await read(branch, '/tmp/word')).toBe('before\n');
    expect(await size(branch)).toBe('20 90\n');
    // The other one is there yet.
    expect(await text(branch.spawn(['tty'], { pty: true }).stdout)).toBe('/dev/pts/1\r\n');
    terminal.stdin?.end();
    await expect(terminal.exited).resolves.toMatchObject({ exitCode: 5 });
  });

  test('many branches of one source at once, and forks of its snapshot meanwhile', async () => {
    await using source = await base.fork();
    await using frozen = await source.snapshot();
    const branches = [0, 1, 2].map((index) => source.fork({ hostname: `branch-${index}` }));
    const clones = await Promise.all([...branches, frozen.fork(), frozen.fork()]);
    await Promise.all(clones.map((clone) => clone.ping()));
    await source.ping();
    await destroyAll(clones);
  });
});

describe('forkSettled', () => {
  test('each clone succeeds or fails by itself', async () => {
    const settled = await base.forkSettled({ count: 3 });
    expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled']);
    const clones = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    await Promise.all(clones.map((clone) => clone.ping()));
    await destroyAll(clones);
    const limits = { count: 2, identityTimeoutMs: 1 };
    const late = await inABusyProgram(() => base.forkSettled(limits));
    for (const one of late) {
      expect(one).toMatchObject({ status: 'rejected', reason: { code: 'VMF_IDENTITY' } });
    }
    const none: object = {};
    await expect(base.forkSettled(none as { count: number })).rejects.toMatchObject({
      code: 'VMF_OPTIONS',
    });
  });

  test('is refused by an engine without memory for all, clone by clone', async () => {
    await using engine = new Engine({ memoryBudgetMiB: 2 });
    await using small = await templateSnapshot(1, engine);
    const settled = await small.forkSettled({ count: 3 });
    expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected']);
    expect(settled[1]).toMatchObject({ reason: { code: 'VMF_NO_MEMORY' } });
  });
});

describe('race', () => {
  test('the first result wins; the others are told, and gone when it is there', async () => {
    const clones: Clone[] = [];
    const told: number[] = [];
    const allBegun = new Deferred<void>();
    const value = await base.race(3, async (clone, index, signal) => {
      if (clones.push(clone) === 3) allBegun.resolve();
      signal.addEventListener('abort', () => told.push(index));
      await allBegun.promise;
      if (index === 1) return 'mine';
      return new Promise<string>(() => {}); // It never ends, and need not.
    });
    expect(value).toBe('mine');
    expect(told.sort()).toEqual([0, 2]);
    expect(clones.map(({ state }) => state)).toEqual(clones.map(() => 'destroyed'));
    expect(base.children).toEqual([]);
  });

  test('failures do not win, and the winner can be kept', async () => {
    const { value, clone } = await base.race(
      { count: 3, keepWinner: true, hostname: 'runner' },
      async (runner, index) => {
        if (index !== 2) throw new Error(`no luck ${index}`);
        return (await runner.exec(['hostname'])).stdout.trim();
      },
    );
    expect(value).toBe('runner-2');
    expect(base.children).toEqual([clone]);
    await clone.ping();
    await clone.destroy();
  });

  test('when all fail it is VMF_RACE with every reason', async () => {
    const failing = base.race(2, async (_clone, index) => {
      throw new Error(`no luck ${index}`);
    });
    await expect(failing).rejects.toMatchObject({
      code: 'VMF_RACE',
      message: expect.stringContaining('no luck'),
      cause: { errors: [{ message: 'no luck 0' }, { message: 'no luck 1' }] },
    });
    expect(base.children).toEqual([]);
  });

  test('a signal ends it, whatever its clones are at', async () => {
    const controller = new AbortController();
    const racing = base.race({ count: 2, signal: controller.signal }, async (clone) => {
      await clone.ping();
      controller.abort(new Error('enough'));
      return new Promise<never>(() => {});
    });
    await expect(racing).rejects.toMatchObject({
      code: 'VMF_ABORTED',
      cause: { message: 'enough' },
    });
    expect(base.children).toEqual([]);
  });

  test('a signal takes along the one that is about to win, unless it has won', async () => {
    const controller = new AbortController();
    const clones: Clone[] = [];
    const told: number[] = [];
    const allBegun = new Deferred<void>();
    const racing = base.race(
      { count: 3, keepWinner: true, signal: controller.signal },
      async (clone, index, signal) => {
        signal.addEventListener('abort', () => told.push(index));
        if (clones.push(clone) === 3) allBegun.resolve();
        await allBegun.promise;
        if (index !== 0) return new Promise<never>(() => {});
        controller.abort(new Error('too late'));
        return 'about to win';
      },
    );
    await expect(racing).rejects.toMatchObject({
      code: 'VMF_ABORTED',
      cause: { message: 'too late' },
    });
    expect(told.sort()).toEqual([0, 1, 2]);
    expect(clones.map(({ state }) => state)).toEqual(['destroyed', 'destroyed', 'destroyed']);
    expect(base.children).toEqual([]);

    const late = new AbortController();
    const won = base.race(
      { count: 2, keepWinner: true, signal: late.signal },
      (_, index, signal) => {
        if (index === 0) return 'won';
        return new Promise<never>(() => signal.addEventListener('abort', () => late.abort()));
      },
    );
    const { value, clone } = await won;
    expect(value).toBe('won');
    expect(base.children).toEqual([clone]);
    await clone.ping();
    await clone.destroy();
  });
});

describe('CloneScope', () => {
  test('takes clones, their branches, snapshots and grandchildren with it', async () => {
    const all: Clone[] = [];
    let frozen: Snapshot;
    {
      await using scope = new CloneScope();
      const clone = await base.fork({ scope });
      frozen = await clone.snapshot();
      all.push(clone, await frozen.fork(), await clone.fork());
      expect(scope.size).toBe(4);
      expect(all.map((each) => each.scope)).toEqual([scope, scope, scope]);
      await all[1]?.destroy();
      expect(scope.size).toBe(3);
    }
    expect(all.map(({ state }) => state)).toEqual(['destroyed', 'destroyed', 'destroyed']);
    expect(frozen.destroyed).toBe(true);
    await using free = await base.fork();
    expect(free.scope).toBeNull();
  });

  test('ends with its signal, forks under way included, and takes no more', async () => {
    const controller = new AbortController();
    const scope = new CloneScope({ signal: controller.signal });
    const clone = await base.fork({ scope });
    const forking = base.fork({ scope, count: 20 });
    controller.abort();
    await expect(forking).rejects.toMatchObject({ code: 'VMF_ABORTED' });
    await scope.destroy();
    expect(clone.state).toBe('destroyed');
    expect(base.children).toEqual([]);
    await expect(base.fork({ scope })).rejects.toMatchObject({ code: 'VMF_STATE' });
    expect(() => scope.add(base)).toThrow(expect.objectContaining({ code: 'VMF_STATE' }));
  });

  test('takes over what was made elsewhere, and lets go', async () => {
    const scope = new CloneScope();
    const clone = await base.fork();
    const kept = await base.fork();
    scope.add(clone);
    scope.add(kept);
    scope.remove(kept);
    await scope.destroy();
    expect(clone.state).toBe('destroyed');
    await kept.ping();
    await kept.destroy();
  });
});

describe('diff', () => {
  test('siblings differ in the pages and files that either has written', async () => {
    await using parent = await base.fork();
    await parent.attach(await busyboxRootfs());
    parent.start({ argv: ['sleep', '1000'], keep: true });
    await parent.exec(['sh', '-c', 'mkdir /srv; cd /srv; echo old > old; echo old > same']);
    const [one, two] = (await parent.fork({ count: 2 })) as [Clone, Clone];
    for (const clone of [one, two]) clone.adopt({ keep: true });
    const script = 'cd /srv; echo same > same; echo here > both; echo x > one; mkdir d';
    await one.exec(['sh', '-c', script]);
    await two.exec(['sh', '-c', 'cd /srv; echo same > same; echo nigh > both; chmod 600 old']);
    const { pages, files } = await one.diff(two, { path: '/srv' });
    expect(files).toEqual({
      added: [],
      removed: ['/srv/d', '/srv/one'],
      changed: ['/srv/both', '/srv/old'],
    });
    const inRanges = pages.ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes / 4096, 0);
    expect(pages.here + pages.there + pages.both + pages.frozen).toBe(inRanges);
    expect(pages.both).toBeGreaterThan(0);
    expect((await two.diff(one, { path: '/srv' })).files?.added).toEqual(['/srv/d', '/srv/one']);
    await expect(one.diff(two, { path: '/nowhere' })).rejects.toMatchObject({
      code: 'VMF_GUEST_FILE',
    });
    await destroyAll([one, two]);
  });

  test('what was written before a snapshot tells siblings apart after it', async () => {
    await using parent = await base.fork();
    await startProgram(parent, 'companion', [String(COMPANION_PORT), String(WRITTEN_PAGES)]);
    const [one, two] = (await parent.fork({ count: 2 })) as [Clone, Clone];
    await askOnce(one, 'fill 7');
    expect((await one.diff(two)).pages.here).toBeGreaterThanOrEqual(WRITTEN_PAGES);
    await using frozen = await one.snapshot();
    const { pages } = await one.diff(two);
    expect(pages.frozen).toBeGreaterThan(WRITTEN_PAGES / 2);
    expect(pages.frozen + pages.both + pages.here + pages.there).toBeGreaterThanOrEqual(
      WRITTEN_PAGES,
    );
    expect((await two.diff(one)).pages.frozen).toBeGreaterThan(WRITTEN_PAGES / 2);
    // A clone of that moment has what the source goes on over: between those two nothing frozen differs.
    await using later = await frozen.fork();
    expect((await one.diff(later)).pages.frozen).toBe(0);
    await destroyAll([one, two]);
  });

  test('without containers there are pages only', async () => {
    const [one, two] = (await base.fork({ count: 2 })) as [Clone, Clone];
    const { pages, files } = await one.diff(two);
    expect(files).toBeNull();
    expect(pages.ranges.length).toBeGreaterThan(0);
    await two.destroy();
    await expect(one.diff(two)).rejects.toMatchObject({ code: 'VMF_GONE' });
    await expect(one.diff(one, { path: 'relative' })).rejects.toMatchObject({
      code: 'VMF_OPTIONS',
    });
    await one.destroy();
  });
});
