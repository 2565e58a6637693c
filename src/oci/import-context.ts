// What the importers of both formats share: the job, and which image of an archive is meant under which name.

import { basename } from 'node:path';
import { VmforkError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import type { ImageParts } from './image.js';
import type { ImportSource } from './import-source.js';
import type { Lease } from './lease.js';
import type { Platform } from './platform.js';
import type { OnProgress } from './progress.js';
import { type ImageReference, parseReference } from './reference.js';

export interface ImportJob {
  readonly path: string;
  /** The name to give, and in an archive with several images the one to take. */
  readonly reference: ImageReference | undefined;
  readonly platform: Platform;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: OnProgress | undefined;
}

/** What an import found out; all blobs are in the store. */
export interface ImportedImage extends ImageParts {
  readonly target: string;
}

/** One image of an archive with the names it has there. */
export interface Candidate<T> {
  readonly names: readonly ImageReference[];
  readonly value: T;
}

/** What both formats need. */
export interface ImportContext {
  readonly source: ImportSource;
  readonly blobs: BlobStore;
  readonly lease: Lease;
  readonly job: ImportJob;
}

/** Picks the image that the caller means, and its name. */
export function pick<T>(
  candidates: readonly Candidate<T>[],
  { reference, path }: ImportJob,
): { value: T; reference: ImageReference } {
  const [only, ...others] = candidates;
  if (!only) throw new VmforkError('VMF_IMAGE_NOT_FOUND', `${path} holds no image`);
  const wanted = reference?.toString();
  const named = candidates.find(({ names }) => names.some((name) => name.toString() === wanted));
  const chosen = named ?? (others.length === 0 ? only : undefined);
  const name = reference ?? chosen?.names[0];
  if (chosen && name) return { value: chosen.value, reference: name };
  const known = candidates.flatMap(({ names }) => names.map((each) => each.familiar()));
  const list = known.slice(0, 20).join(', ') || 'images without names';
  throw new VmforkError('VMF_OPTIONS', `${path} holds ${list}; say which by reference`);
}

/** The names that parse; an archive may hold others. */
export function namesOf(texts: readonly (string | undefined)[]): ImageReference[] {
  return texts.flatMap((text) => {
    try {
      return text ? [parseReference(text)] : [];
    } catch {
      return [];
    }
  });
}

/** A name for a layout that has tags only: the file's, `/images/app.tar` with tag `v1` becomes `app:v1`. */
export function nameAfterFile(path: string, tag: string): ImageReference[] {
  const stem = basename(path).replace(/(\.oci)?(\.tar)?(\.gz|\.zst)?$|\.tgz$/, '');
  return namesOf([`${stem.toLowerCase()}:${tag}`]);
}
