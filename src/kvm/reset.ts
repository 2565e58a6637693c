// Taking a clone back to its fork point.

import { VmforkError } from '../errors.js';
import type { ResetOptions } from '../options.js';
import { throwIfAborted } from '../waiting.js';
import { acknowledge, DEFAULT_CONSOLE_BYTES } from './forking.js';
import type { Identity } from './identity.js';
import type { Machine } from './machine.js';
import type { SnapshotMetadata } from './metadata.js';
import { StageClock, type Timing } from './stage-clock.js';

/** What a reset gives a machine. */
export interface Renewed {
  identity: Identity;
  timings: Timing[];
}

/** See `clone.reset()`. A machine that has lost its memory and does not acknowledge its identity is destroyed. */
export async function resetMachine(
  machine: Machine,
  metadata: SnapshotMetadata,
  options: ResetOptions,
): Promise<Renewed> {
  throwIfAborted('reset', options.signal);
  const clock = new StageClock();
  const { identity, resume } = machine.engine.identities.take(options.hostname);
  const consoleBytes = options.consoleBytes ?? DEFAULT_CONSOLE_BYTES;
  clock.mark('identity');
  const session = await machine.rewind([identity.cid, resume, consoleBytes], metadata, clock);
  machine.engine.identities.refill();
  try {
    const parent = { cid: metadata.cid, kernel: metadata.agent.kernel };
    await acknowledge(session, identity, parent, options);
    clock.mark('acknowledge');
    machine.ready();
  } catch (error) {
    await machine.destroy();
    throw endOf(error) ?? error;
  }
  const native = machine.stages.map(({ name, ns }) => ({ stage: `reset.${name}`, ns }));
  return { identity, timings: [...clock.stages, ...native] };
}

/** `VMF_GONE`, when that is why a guest did not acknowledge: its owner or engine, or itself, has ended it. */
function endOf(error: unknown): unknown {
  if (!VmforkError.is(error) || !VmforkError.is(error.cause)) return undefined;
  return error.cause.code === 'VMF_GONE' ? error.cause : undefined;
}
