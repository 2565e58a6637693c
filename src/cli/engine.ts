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
const ENDING: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];

/** Takes a signal and says whether it is dealt with; else one that ends commands ends this one. */
export type SignalHandler = (signal: NodeJS.Signals) => boolean;

/** Gives signals to a handler from now on; null: to none. */
export type Intercept = (handler: SignalHandler | null) => void;

/**
 * Runs `work` with an engine of its own. Signals end it, unless what `work` gives to `intercept` takes them. It takes those
 * of `further`, too, also such as came before; nothing else is done about these.
 */
export async function withEngine<T>(
  work: (engine: Engine, intercept: Intercept) => Promise<T>,
  further: readonly NodeJS.Signals[] = [],
): Promise<T> {
  const engine = new Engine();
  const early = new Set<NodeJS.Signals>();
  let signalled = false;
  let handler: SignalHandler | null = null;
  const onSignal = (signal: NodeJS.Signals) => {
    if (!signalled && handler?.(signal)) return;
    if (!ENDING.includes(signal)) {
      early.add(signal);
      return;
    }
    const code = EXIT.signalled + constants.signals[signal];
    if (signalled) process.exit(code);
    signalled = true;
    const leave = () => process.exit(code);
    engine.close().then(leave, leave);
  };
  const signals = new Set([...ENDING, ...further]);
  for (const signal of signals) process.on(signal, onSignal);
  try {
    return await work(engine, (given) => {
      handler = given;
      for (const signal of early) given?.(signal);
      early.clear();
    });
  } catch (error) {
    // Calls that the signal cut off fail; the exit under way is their answer.
    if (signalled) await new Promise(() => {});
    throw error;
  } finally {
    await engine.close();
    for (const signal of signals) process.off(signal, onSignal);
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
