// Snapshots on disk: options and calls of saving, loading and checking. docs/snapshot-format.md describes the files.

import { resolve } from 'node:path';
import { fromNative, VmforkError } from '../errors.js';
import { GENERATION } from '../exec/messages.js';
import type { NativeSaveReport, NativeSnapshot } from '../native.js';
import { object, type Rules } from '../options.js';
import type { Engine } from './engine.js';
import { parseMetadata, type SnapshotMetadata, serializeMetadata } from './metadata.js';
import type { Snapshot } from './snapshot.js';

/** RFC 2104, section 3: a key shorter than the hash's output weakens it. */
const LEAST_KEY_BYTES = 32;
const MOST_KEY_BYTES = 4096;

/** Options of `snapshot.save()`. */
export interface SaveOptions {
  /**
   * A snapshot that is on disk, or its directory: only what differs from it is written. It must stay where it is, or move
   * together with the new one. Default none: everything is written.
   */
  base?: Snapshot | string | undefined;
  /** Authenticates the snapshot with HMAC-SHA-256; 32 to 4096 bytes. Default none. */
  key?: Uint8Array | undefined;
}

/** Options of `Snapshot.load()`. */
export interface LoadOptions {
  /** Default: the engine of this thread. */
  engine?: Engine | undefined;
  /** Refuses what was not saved with this key. Default none: nothing is authenticated. */
  key?: Uint8Array | undefined;
  /** Refuses what was made from another guest than this one (`snapshot.metadata.guest`). Default any. */
  guest?: string | undefined;
  /** Has the working set that was recorded (`snapshot.recordWorkingSet()`) read ahead, if there is one. Default false. */
  prefetch?: boolean | undefined;
}

/** What `snapshot.save()` has written. */
export type SavedSnapshot = NativeSaveReport;

const key = object(
  `a Uint8Array of ${LEAST_KEY_BYTES} to ${MOST_KEY_BYTES} bytes`,
  (value) =>
    value instanceof Uint8Array &&
    value.length >= LEAST_KEY_BYTES &&
    value.length <= MOST_KEY_BYTES,
);
const isPath = (value: unknown) =>
  typeof value === 'string' && value !== '' && !value.includes('\0');
/** `isSnapshot` tells whether a value is of the class, which imports this file. */
export const saveOptions = (isSnapshot: (value: unknown) => boolean): Rules => ({
  base: {
    accepts: 'a Snapshot or the directory of one',
    test: (value) => isPath(value) || isSnapshot(value),
  },
  key,
});
export const LOAD_OPTIONS: Rules = {
  key,
  guest: { accepts: 'a non-empty string', test: isPath },
  prefetch: { accepts: 'a boolean', test: (value) => typeof value === 'boolean' },
};

/** See `snapshot.save()`. */
export async function saveSnapshot(
  native: NativeSnapshot,
  directory: string,
  metadata: SnapshotMetadata,
  options: { base: NativeSnapshot | string | undefined; key: Uint8Array | undefined },
): Promise<SavedSnapshot> {
  const isDirectory = typeof options.base === 'string';
  return native
    .save(resolve(directory), {
      metadata: serializeMetadata(metadata),
      base: isDirectory ? null : ((options.base as NativeSnapshot | undefined) ?? null),
      baseDirectory: isDirectory ? resolve(options.base as string) : null,
      key: options.key ?? null,
    })
    .catch(rethrow);
}

/** See `Snapshot.load()`: what the snapshot will be made of. */
export async function loadSnapshot(
  engine: Engine,
  directory: string,
  options: LoadOptions,
): Promise<{ native: NativeSnapshot; metadata: SnapshotMetadata }> {
  const native = await engine.load(resolve(directory), {
    key: options.key ?? null,
    prefetch: options.prefetch ?? false,
  });
  try {
    const metadata = parseMetadata(native.metadata());
    checkGuest(metadata, options.guest);
    return { native, metadata };
  } catch (error) {
    native.close();
    throw fromNative(error);
  }
}

function checkGuest({ agent, guest }: SnapshotMetadata, wanted: string | undefined): void {
  const { generation } = agent;
  if (generation < GENERATION.min || generation > GENERATION.max) {
    const spoken = `${GENERATION.min} to ${GENERATION.max}`;
    throw incompatible(
      `its agent speaks generation ${generation} of the protocol, this library ${spoken}`,
    );
  }
  if (wanted !== undefined && wanted !== guest) {
    throw incompatible(`made from guest ${guest}, not from ${wanted}`);
  }
}

function incompatible(detail: string): VmforkError {
  return new VmforkError('VMF_SNAPSHOT_INCOMPATIBLE', detail);
}

/** See `snapshot.recordWorkingSet()`. */
export async function keepWorkingSet(
  native: NativeSnapshot,
  ranges: BigUint64Array,
): Promise<void> {
  await native.recordWorkingSet(ranges).catch(rethrow);
}

function rethrow(error: unknown): never {
  throw fromNative(error);
}
