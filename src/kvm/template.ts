// Booting a guest to the point where it can be frozen.

import { resolve } from 'node:path';
import { VmforkError } from '../errors.js';
import type { AgentInfo } from '../exec/messages.js';
import type { NativeBootOptions } from '../native.js';
import {
  BOOT_OPTIONS,
  type BootOptions,
  checkOptions,
  type ForkOptions,
  type SnapshotOptions,
} from '../options.js';
import { throwIfAborted, type WaitOptions, watchLimits } from '../waiting.js';
import { branch } from './branch.js';
import type { Clone } from './clone.js';
import { Engine, probeHost } from './engine.js';
import { commandLine, findGuest } from './guest.js';
import {
  checkAcknowledged,
  createIdentity,
  encodeIdentity,
  type Identity,
  settleClock,
} from './identity.js';
import { Machine } from './machine.js';
import { ENGINE_OPTION, type Snapshot, takeSnapshot } from './snapshot.js';
import { StageClock } from './stage-clock.js';
import { Vm } from './vm.js';

const MIB = 1024 * 1024;
const DEFAULT_SHAPE = { memoryMiB: 128, vcpus: 1 };
const DEFAULT_BOOT_TIMEOUT_MS = 60_000;
const DEFAULT_CONSOLE_BYTES = 64 * 1024;
// For kernels brought along: find the agent, end cleanly, and on PVM keep to the instructions that KVM's interpreter knows.
const PLAIN_CMDLINE = {
  common: 'console=ttyS0 reboot=k panic=-1 rdinit=/init quiet',
  pvm: 'noxsave clearcpuid=popcnt,erms,fsrm,smap,smep,rdrand,rdseed,fsgsbase,invpcid,cx16,avx2,pcid',
};

/** A VM that was booted, to be snapshotted. */
export class Template extends Vm {
  /** @internal Programs have run in it for the clones' sake: it is to rest before it is frozen. */
  warmed = false;

  /**
   * Boots a guest and waits until its agent is ready. Rejects with `VMF_GUEST_MISSING`, `VMF_KERNEL_NOT_FOUND`,
   * `VMF_KERNEL_INVALID`, `VMF_KERNEL_ARCH`, `VMF_MEMORY_SIZE`, `VMF_BOOT_TIMEOUT`, `VMF_AGENT_MISMATCH`,
   * `VMF_GUEST_PANIC`, `VMF_GUEST_CRASH` and others; those of a guest that ran carry `consoleTail`.
   */
  static async boot(
    options: BootOptions & { engine?: Engine | undefined } = {},
  ): Promise<Template> {
    checkOptions('boot', { ...BOOT_OPTIONS, ...ENGINE_OPTION }, options);
    throwIfAborted('boot', options.signal);
    const engine = options.engine ?? Engine.default();
    const clock = new StageClock();
    const identity = createIdentity(engine.newCid(), options.hostname);
    const { native: nativeOptions, guest } = machineOptions(options, identity.cid);
    const machine = await engine.boot(nativeOptions, (vm) => new Machine(engine, vm));
    clock.mark('create');
    try {
      const agent = await bringUp(machine, identity, options, clock);
      machine.ready();
      const native = machine.stages.map(({ name, ns }) => ({ stage: `create.${name}`, ns }));
      return new Template({
        machine,
        identity,
        agent,
        guest,
        containment: { fixedDisks: nativeOptions.diskPaths.length, rootfs: null, main: null },
        timings: [...clock.stages, ...native],
      });
    } catch (error) {
      await machine.destroy();
      throw error;
    }
  }

  get generation(): number {
    return 0;
  }

  override async beforeSnapshot(limits: WaitOptions): Promise<boolean> {
    return (await super.beforeSnapshot(limits)) || this.warmed;
  }

  /** Freezes the guest; it goes on afterwards. Rejects with `VMF_NO_MEMORY` when there is no room for its memory. */
  snapshot(options: SnapshotOptions = {}): Promise<Snapshot> {
    return takeSnapshot(this.machine, this, options);
  }

  /** See `clone.fork()`. */
  fork(options: ForkOptions & { count: number }): Promise<Clone[]>;
  fork(options?: ForkOptions): Promise<Clone>;
  fork(options: ForkOptions = {}): Promise<Clone | Clone[]> {
    return branch(this, options);
  }
}

/** The size of the machine that these options ask for, in full. */
export function shapeOf({ memoryMiB, vcpus }: Pick<BootOptions, 'memoryMiB' | 'vcpus'>): {
  memoryMiB: number;
  vcpus: number;
} {
  return {
    memoryMiB: memoryMiB ?? DEFAULT_SHAPE.memoryMiB,
    vcpus: vcpus ?? DEFAULT_SHAPE.vcpus,
  };
}

function machineOptions(
  options: BootOptions,
  cid: number,
): { native: NativeBootOptions; guest: string } {
  const brought = options.kernelPath !== undefined;
  const complete = brought && options.initrdPath !== undefined;
  const guest = complete ? null : findGuest();
  const diskPaths = options.diskPaths ?? (guest ? [guest.userlandPath] : []);
  const kernelPath = resolve(options.kernelPath ?? guest?.kernelPath ?? '');
  const initrdPath = options.initrdPath ?? guest?.initrdPath;
  const cmdline = brought || !guest ? PLAIN_CMDLINE : guest.cmdline;
  const { memoryMiB, vcpus } = shapeOf(options);
  return {
    guest: brought || !guest ? kernelPath : guest.id,
    native: {
      kernelPath,
      initrdPath: initrdPath === undefined ? null : resolve(initrdPath),
      diskPaths: diskPaths.map((path) => resolve(path)),
      cmdline: commandLine({ cmdline }, probeHost().kind, options.cmdline),
      memoryBytes: memoryMiB * MIB,
      vcpus,
      cid,
      consoleBytes: options.consoleBytes ?? DEFAULT_CONSOLE_BYTES,
    },
  };
}

/** Waits for the agent and gives it its identity, all within one time limit. */
async function bringUp(
  machine: Machine,
  identity: Identity,
  options: BootOptions,
  clock: StageClock,
): Promise<AgentInfo> {
  const timeoutMs = options.bootTimeoutMs ?? DEFAULT_BOOT_TIMEOUT_MS;
  // Ending the machine rejects whichever step is waiting.
  const stop = watchLimits('boot', { timeoutMs, signal: options.signal }, (error) =>
    machine.end(
      error.code === 'VMF_TIMEOUT' ? new VmforkError('VMF_BOOT_TIMEOUT', `${timeoutMs} ms`) : error,
    ),
  );
  try {
    const session = await machine.control;
    clock.mark('kernel');
    const agent = await session.hello;
    clock.mark('hello');
    // An agent takes an identity only at rest, as it does in a clone.
    await session.quiesce();
    const value = 0;
    const answer = await session.resume(value, encodeIdentity(value, identity));
    checkAcknowledged(identity, answer, { cid: identity.cid, kernel: agent.kernel });
    await settleClock(session, identity, answer, {});
    clock.mark('acknowledge');
    return agent;
  } catch (error) {
    throw reasonOf(error);
  } finally {
    stop();
  }
}

/** Nobody has seen this VM, so it did not "go": what ended it is the error, with the console's tail. */
function reasonOf(error: unknown): unknown {
  if (!VmforkError.is(error) || error.code !== 'VMF_GONE' || !VmforkError.is(error.cause))
    return error;
  const { cause, consoleTail } = error;
  const reason = new VmforkError(cause.code, '', {
    cause: cause.cause,
    ...(consoleTail !== undefined && { consoleTail }),
  });
  reason.message = cause.message;
  return reason;
}
