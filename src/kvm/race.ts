// Many clones try, the first to succeed wins, the others are gone before the winner's result is handed out.

import { VmforkError } from '../errors.js';
import type { ForkOptions } from '../options.js';
import { abortedError, throwIfAborted, withLimits } from '../waiting.js';
import type { Clone } from './clone.js';
import type { Snapshot } from './snapshot.js';

/** Options of `snapshot.race()`. */
export interface RaceOptions extends ForkOptions {
  /** How many clones, 1 to 10000. */
  count: number;
  /** Resolve with `{ value, clone }`: the winner's clone lives on. Default false: it is destroyed with the others. */
  keepWinner?: boolean | undefined;
}

/** What each clone does in a race. The signal fires when another one has won, or the race was aborted. */
export type Runner<T> = (clone: Clone, index: number, signal: AbortSignal) => Promise<T> | T;

/** A result, and the clone that had it first. */
export interface Winner<T> {
  value: T;
  clone: Clone;
}

/** See `snapshot.race()`. */
export async function race<T>(
  snapshot: Snapshot,
  { keepWinner = false, signal, ...options }: RaceOptions,
  run: Runner<T>,
): Promise<Winner<T>> {
  throwIfAborted('race', signal);
  const forking = new AbortController();
  const forks = snapshot.forkEach({ ...options, signal: forking.signal });
  // One each: what the winner has tied to its signal may go on.
  const lost = forks.map(() => new AbortController());
  const runs = forks.map(async (fork, index) => {
    const clone = await fork;
    const value = await run(clone, index, (lost[index] as AbortController).signal);
    return { clone, value, index };
  });
  let winner: (Winner<T> & { index: number }) | undefined;
  try {
    // A runner need not heed the signal, so the race does not wait for it.
    winner = await withLimits('race', { signal }, Promise.any(runs));
    return { value: winner.value, clone: winner.clone };
  } catch (error) {
    throw signal?.aborted ? abortedError('race', signal) : nobodyWon(error);
  } finally {
    forking.abort(signal?.reason);
    for (const [index, one] of lost.entries()) {
      if (index !== winner?.index) one.abort(signal?.reason);
    }
    await destroyAll(forks, keepWinner ? winner?.clone : undefined);
  }
}

async function destroyAll(forks: readonly Promise<Clone>[], except: Clone | undefined) {
  const settled = await Promise.allSettled(forks);
  const clones = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  await Promise.all(clones.filter((clone) => clone !== except).map((clone) => clone.destroy()));
}

function nobodyWon(error: unknown): unknown {
  if (!(error instanceof AggregateError)) return error;
  const [first] = error.errors;
  const example = first instanceof Error ? first.message : String(first);
  return new VmforkError(
    'VMF_RACE',
    `${error.errors.length} clones failed, the first: ${example}`,
    {
      cause: error,
    },
  );
}
