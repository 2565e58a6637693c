// The engine of a command: closed whatever happens, also by a signal, so that nothing outlives the terminal's Ctrl-C.

import { constants } from 'node:os';
import { VmforkError } from '../errors.js';
import { Engine } from '../kvm/engine.js';
import { buildGuest, findGuest } from '../kvm/guest.js';
import { Snapshot } from '../kvm/snapshot.js';
import { EXIT } from './exit-codes.js';
import { note } from './output.js';

// Loading a cached template takes milliseconds.
const PATIENCE_MS = 500;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Takes a signal and says whether it is dealt with; else it ends the command. */
export type SignalHandler = (signal: NodeJS.Signals) => boolean;

/** Runs `work` with an engine of its own. Signals end it, unless what `work` gives to `intercept` takes them. */
export async function withEngine<T>(
  work: (engine: Engine, intercept: (handler: SignalHandler | null) => void) => Promise<T>,
): Promise<T> {
  const engine = new Engine();
  let signalled = false;
  let handler: SignalHandler | null = null;
  const onSignal = (signal: NodeJS.Signals) => {
    if (!signalled && handler?.(signal)) return;
    const code = EXIT.signalled + constants.signals[signal];
    if (signalled) process.exit(code);
    signalled = true;
    const leave = () => process.exit(code);
    engine.close().then(leave, leave);
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  try {
    return await work(engine, (given) => {
      handler = given;
    });
  } catch (error) {
    // Calls that the signal cut off fail; the exit under way is their answer.
    if (signalled) await new Promise(() => {});
    throw error;
  } finally {
    await engine.close();
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}

/** The default guest's snapshot, and whether this run had to boot for it. */
export interface ReadySnapshot {
  snapshot: Snapshot;
  booted: boolean;
  readyMs: number;
}

/** Builds the guest when it is missing and takes the template from the cache; says what takes long. */
export async function readySnapshot(
  engine: Engine,
  { memoryMiB, vcpus }: { memoryMiB?: number | undefined; vcpus?: number | undefined },
): Promise<ReadySnapshot> {
  await ensureGuest();
  const started = performance.now();
  const startedAt = Date.now();
  const patience = setTimeout(() => note('template: booting it, once'), PATIENCE_MS);
  try {
    const snapshot = await Snapshot.cached({ engine, memoryMiB, vcpus });
    const booted = Date.parse(snapshot.metadata.createdAt) >= startedAt;
    return { snapshot, booted, readyMs: performance.now() - started };
  } finally {
    clearTimeout(patience);
  }
}

/** Builds the guest when it is missing. */
export async function ensureGuest(): Promise<void> {
  try {
    findGuest();
  } catch (error) {
    if (!VmforkError.is(error) || error.code !== 'VMF_GUEST_MISSING') throw error;
    note('guest: not built yet, building it once; this takes some minutes');
    await buildGuest({ onProgress: (line) => note(`guest: ${line}`) });
  }
}
