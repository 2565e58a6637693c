// One fork: from a frozen machine to one that runs and has acknowledged who it is.

import { VmforkError } from '../errors.js';
import { expectRelease } from '../exec/release.js';
import type { Session } from '../exec/session.js';
import type { Tunnel } from '../exec/tunnel.js';
import type { Charge } from '../memshare/budget.js';
import type { NativeForkOptions, NativeSnapshot } from '../native.js';
import type { ForkOptions } from '../options.js';
import type { Engine } from './engine.js';
import type { ForkPlan } from './fork-plan.js';
import {
  checkAcknowledged,
  FORK_RESUME,
  type FrozenGuest,
  type Identity,
  settleClock,
} from './identity.js';
import { Machine } from './machine.js';
import type { SnapshotMetadata } from './metadata.js';
import type { Timing } from './stage-clock.js';

const DEFAULT_IDENTITY_TIMEOUT_MS = 30_000;
export const DEFAULT_CONSOLE_BYTES = 64 * 1024;

/** What is forked. */
export interface Origin {
  readonly engine: Engine;
  readonly native: NativeSnapshot;
  readonly metadata: SnapshotMetadata;
}

/** A machine that is itself. */
export interface Forked {
  readonly machine: Machine;
  readonly identity: Identity;
  readonly timings: Timing[];
  readonly forkPoint: Tunnel | null;
}

/** Forks within the memory that was admitted, which the machine gives back when it is gone; so does a failure. */
export async function forkMachine(
  { engine, native, metadata }: Origin,
  plan: ForkPlan,
  options: ForkOptions,
  charge: Charge,
): Promise<Forked> {
  const { clock } = plan;
  clock.mark('admit');
  const { identity, resume } = engine.identities.take(plan.hostname);
  const controlBytes = plan.release ? Buffer.concat([resume, plan.release.bytes]) : resume;
  const consoleBytes = options.consoleBytes ?? DEFAULT_CONSOLE_BYTES;
  clock.mark('identity');
  const nativeOptions: NativeForkOptions = [identity.cid, controlBytes, consoleBytes];
  const machine = await engine.fork(native, nativeOptions, (vm) => {
    clock.mark('fork'); // It runs.
    return new Machine(engine, vm, charge);
  });
  try {
    const session = machine.openControl(metadata);
    const forkPoint = plan.release && expectRelease(session, plan.release);
    const parent = { cid: metadata.cid, kernel: metadata.agent.kernel };
    const acknowledged = acknowledge(session, identity, parent, options);
    engine.drawAhead();
    await acknowledged;
    await forkPoint?.opened;
    clock.mark('acknowledge');
    machine.ready();
    const native = machine.stages.map(({ name, ns }) => ({ stage: `fork.${name}`, ns }));
    return { machine, identity, timings: [...clock.stages, ...native], forkPoint };
  } catch (error) {
    await machine.destroy();
    throw error;
  }
}

/** Waits until the guest has applied its identity. Rejects with `VMF_IDENTITY` when it does not. */
export async function acknowledge(
  session: Session,
  identity: Identity,
  parent: FrozenGuest,
  { identityTimeoutMs, signal }: Pick<ForkOptions, 'identityTimeoutMs' | 'signal'>,
): Promise<void> {
  const limits = { timeoutMs: identityTimeoutMs ?? DEFAULT_IDENTITY_TIMEOUT_MS, signal };
  try {
    const answer = await session.expectResumed(FORK_RESUME, limits);
    checkAcknowledged(identity, answer, parent);
    await settleClock(session, identity, answer, limits);
  } catch (error) {
    if (!VmforkError.is(error) || error.code === 'VMF_IDENTITY' || error.code === 'VMF_ABORTED') {
      throw error;
    }
    throw new VmforkError('VMF_IDENTITY', error.message, {
      cause: error,
      ...(error.consoleTail !== undefined && { consoleTail: error.consoleTail }),
    });
  }
}
