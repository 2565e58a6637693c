// The addon itself, without a guest: what it exports, refuses and reports, with or without /dev/kvm.
import { execFile } from 'node:child_process';
import { accessSync, constants, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { loadNative, type NativeBootOptions, type NativeEngine } from '../../src/native.js';

const addonPath = fileURLToPath(new URL('../../build/Release/vmfork.node', import.meta.url));
const addon = loadNative();

const bootOptions: NativeBootOptions = {
  kernelPath: '/nonexistent/vmlinux',
  initrdPath: null,
  diskPaths: [],
  cmdline: '',
  memoryBytes: 64 << 20,
  vcpus: 1,
  cid: 3,
  consoleBytes: 4096,
};

/** What the file system says about /dev/kvm, as the code the addon must report. */
function kvmTrouble(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? 'VMF_KVM_MISSING' : 'VMF_KVM_DENIED';
  }
}

/** Runs `body` with an engine; where there can be none, checks that the addon says why. */
async function withEngine(body: (engine: NativeEngine) => Promise<void>): Promise<void> {
  const trouble = kvmTrouble();
  if (trouble !== undefined) {
    expect(() => addon.createEngine(() => {})).toThrow(expect.objectContaining({ code: trouble }));
    return;
  }
  const engine = addon.createEngine(() => {});
  try {
    await body(engine);
  } finally {
    await engine.close();
  }
}

const engineThreads = () =>
  readdirSync('/proc/self/task').filter((id) =>
    readFileSync(`/proc/self/task/${id}/comm`, 'utf8').startsWith('vmfork-'),
  ).length;

/** Runs a script with the addon as `addon` in a process of its own. */
async function runScript(script: string): Promise<string> {
  const program = `const addon = require(${JSON.stringify(addonPath)}); ${script}`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', '-e', program], {
    timeout: 20_000,
  });
  return stdout;
}

describe('the addon', () => {
  it('has the version of the package', () => {
    const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
    expect(addon.version()).toBe(JSON.parse(manifest).version);
  });

  it('tells what kind of host this is, or why it cannot', () => {
    const trouble = kvmTrouble();
    if (trouble !== undefined) {
      expect(() => addon.probeHost()).toThrow(expect.objectContaining({ code: trouble }));
      return;
    }
    const host = addon.probeHost();
    expect(host.apiVersion).toBe(12);
    expect(['hardware', 'pvm']).toContain(host.kind);
    expect(host.capabilities.IRQCHIP).toBeGreaterThan(0);
    expect(host.maxVcpus).toBeGreaterThan(0);
  });

  it('tells a /dev/kvm that may not be opened from one that is absent', async () => {
    // Without root's rights the file system's verdict is the ordinary user's.
    const stdout = await runScript(`
      if (process.getuid() === 0) { process.setgroups([]); process.setgid(65534); process.setuid(65534); }
      const verdict = (check) => { try { check(); return 'fine'; } catch (error) { return error.code; } };
      const { accessSync, constants } = require('node:fs');
      const expected = verdict(() => accessSync('/dev/kvm', constants.R_OK | constants.W_OK));
      console.log(expected, verdict(() => addon.probeHost()));
    `);
    expect(['fine fine', 'EACCES VMF_KVM_DENIED', 'ENOENT VMF_KVM_MISSING']).toContain(
      stdout.trim(),
    );
  });

  it('refuses a listener that is not a function', () => {
    const createEngine = addon.createEngine as (listener: unknown) => NativeEngine;
    for (const listener of [undefined, null, 1, {}]) {
      expect(() => createEngine(listener)).toThrow(
        expect.objectContaining({ name: 'TypeError', code: 'VMF_OPTIONS' }),
      );
    }
  });
});

describe('an engine', () => {
  it('refuses options that memory safety cannot bear', () =>
    withEngine(async (engine) => {
      const boot = engine.boot.bind(engine) as (options: unknown) => Promise<unknown>;
      const wrong: unknown[] = [
        undefined,
        {},
        { ...bootOptions, kernelPath: 'a\0b' },
        { ...bootOptions, kernelPath: 'x'.repeat(5000) },
        { ...bootOptions, initrdPath: 7 },
        { ...bootOptions, diskPaths: Array(5).fill('disk') },
        { ...bootOptions, memoryBytes: -1 },
        { ...bootOptions, memoryBytes: Number.MAX_VALUE },
        { ...bootOptions, vcpus: 1.5 },
        { ...bootOptions, vcpus: Number.NaN },
        { ...bootOptions, cid: 2 },
        { ...bootOptions, consoleBytes: '1' },
      ];
      for (const options of wrong) {
        expect(() => boot(options), JSON.stringify(options)).toThrow(
          expect.objectContaining({ name: 'TypeError', code: 'VMF_OPTIONS' }),
        );
      }
    }));

  it('rejects with the code, the operation, errno and what it was about', () =>
    withEngine(async (engine) => {
      await expect(engine.boot(bootOptions)).rejects.toMatchObject({
        name: 'Error',
        code: 'VMF_KERNEL_NOT_FOUND',
        operation: 'open',
        errno: 2,
        detail: bootOptions.kernelPath,
      });
      await expect(engine.load('/nonexistent')).rejects.toMatchObject({
        code: expect.stringMatching(/^VMF_/),
        message: expect.stringContaining('/nonexistent'),
      });
    }));

  it('is only made by createEngine, and its methods work on engines only', () =>
    withEngine(async (engine) => {
      const Constructor = engine.constructor as new () => NativeEngine;
      expect(() => new Constructor()).toThrow(TypeError);
      for (const receiver of [{}, Object.create(engine), new Proxy(engine, {}), undefined]) {
        expect(() => engine.close.call(receiver as NativeEngine)).toThrow(TypeError);
      }
    }));

  it('can be closed more than once and then refuses work', () =>
    withEngine(async (engine) => {
      await Promise.all([engine.close(), engine.close()]);
      await engine.close();
      await expect(engine.boot(bootOptions)).rejects.toMatchObject({ code: 'VMF_STATE' });
    }));

  it('settles what was asked before it closes', () =>
    withEngine(async (engine) => {
      const boots = Array.from({ length: 50 }, () => engine.boot(bootOptions));
      const results = Promise.allSettled(boots);
      await engine.close();
      expect((await results).map((result) => result.status)).toEqual(Array(50).fill('rejected'));
    }));

  it('leaves no thread behind', () =>
    withEngine(async (engine) => {
      expect(engineThreads()).toBeGreaterThan(0);
      await engine.close();
      expect(engineThreads()).toBe(0);
    }));

  it('does not keep an idle process alive, and a pending promise does', () =>
    withEngine(async () => {
      const stdout = await runScript(`
        const engine = addon.createEngine(() => {});
        engine.load('/nonexistent').catch((error) => console.log(typeof error.code));
      `);
      expect(stdout.trim()).toBe('string');
    }));

  it('ends when nothing can reach it any more', () =>
    withEngine(async () => {
      const stdout = await runScript(`
        const threads = () => require('node:fs').readdirSync('/proc/self/task').length;
        const before = threads();
        addon.createEngine(() => {});
        const started = threads() > before;
        const poll = setInterval(() => {
          gc();
          if (threads() > before) return;
          clearInterval(poll);
          console.log(started);
        }, 5);
      `);
      expect(stdout.trim()).toBe('true');
    }));

  it('ends with a worker that is terminated in the middle of its calls', () =>
    withEngine(async (engine) => {
      await engine.close();
      const script = `
        const { parentPort } = require('node:worker_threads');
        const engine = require(${JSON.stringify(addonPath)}).createEngine(() => {});
        const call = () => engine.load('/nonexistent').catch(call);
        for (let i = 0; i < 16; ++i) call();
        parentPort.postMessage('busy');
      `;
      for (let round = 0; round < 5; ++round) {
        const worker = new Worker(script, { eval: true });
        await new Promise((resolve) => worker.once('message', resolve));
        await worker.terminate();
      }
      expect(engineThreads()).toBe(0);
    }));
});
