// What tells two clones apart: pages of memory that either owns, and files of their containers.

import {
  digestFiles,
  isDirectory,
  isRegular,
  listTree,
  type Tree,
  type TreeEntry,
} from '../container/tree-list.js';
import type { Session } from '../exec/session.js';
import type { NativeMemoryDifference } from '../native.js';
import type { WaitOptions } from '../waiting.js';

const PAGE_BYTES = 4096;

/** A run of pages in guest memory. */
export interface PageRange {
  offsetBytes: number;
  lengthBytes: number;
}

/**
 * A VM owns the pages that it has written to since it was forked or last frozen, or got copies of ahead because the
 * snapshot's first clones had written to them as they started.
 */
export interface PageDifference {
  /** Pages that only this VM owns. */
  here: number;
  /** Pages that only the other one owns. */
  there: number;
  /** Pages that both own; their content may be the same all the same. */
  both: number;
  /** Pages that neither owns and that differ: written before a VM, or what it was forked from, was last frozen. */
  frozen: number;
  /** All of them, sorted: outside of these the two have the same memory. */
  ranges: PageRange[];
}

/** Paths, sorted. */
export interface FileDifference {
  /** Only the other VM has them. */
  added: string[];
  /** Only this VM has them. */
  removed: string[];
  /** Both have them, with another type, mode, owner or content; of what is neither file nor directory, all that was touched. */
  changed: string[];
}

/** What tells two VMs apart. */
export interface VmDifference {
  pages: PageDifference;
  /** Of their containers' root filesystems; null when not both have one. */
  files: FileDifference | null;
}

/** Options of `clone.diff()`. */
export interface DiffOptions extends WaitOptions {
  /** Where files are compared, an absolute path in the container; its mount points are left out. Default `/`. */
  path?: string | undefined;
}

/** Counts and joins what two VMs do not share. */
export function comparePages({ here, there, frozen }: NativeMemoryDifference): PageDifference {
  const [mine, theirs] = [toRanges(here), toRanges(there)];
  const [minePages, theirPages] = [pagesOf(mine), pagesOf(theirs)];
  const owned = union([...mine, ...theirs]);
  const ownedPages = pagesOf(owned);
  const ranges = union([...owned, ...toRanges(frozen)]);
  return {
    here: ownedPages - theirPages,
    there: ownedPages - minePages,
    both: minePages + theirPages - ownedPages,
    frozen: pagesOf(ranges) - ownedPages,
    ranges,
  };
}

function toRanges(pairs: BigUint64Array): PageRange[] {
  return Array.from({ length: pairs.length / 2 }, (_, index) => ({
    offsetBytes: Number(pairs[2 * index]),
    lengthBytes: Number(pairs[2 * index + 1]),
  }));
}

function pagesOf(ranges: readonly PageRange[]): number {
  return ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0) / PAGE_BYTES;
}

function union(ranges: PageRange[]): PageRange[] {
  const merged: PageRange[] = [];
  for (const range of ranges.sort((a, b) => a.offsetBytes - b.offsetBytes)) {
    const last = merged.at(-1);
    const lengthBytes = last && range.offsetBytes + range.lengthBytes - last.offsetBytes;
    if (last && lengthBytes && range.offsetBytes <= last.offsetBytes + last.lengthBytes)
      last.lengthBytes = Math.max(last.lengthBytes, lengthBytes);
    else merged.push({ ...range });
  }
  return merged;
}

/** Compares what the containers of two VMs have below a directory. */
export async function compareFiles(
  here: Session,
  there: Session,
  path: string,
  limits: WaitOptions,
): Promise<FileDifference> {
  const [mine, theirs] = await Promise.all([
    listTree(here, path, limits),
    listTree(there, path, limits),
  ]);
  const { differ, doubtful } = compareTrees(mine, theirs);
  const [ours, others] = await Promise.all([
    digestFiles(here, doubtful, limits),
    digestFiles(there, doubtful, limits),
  ]);
  const changed = doubtful.filter((_, index) => !ours[index] || ours[index] !== others[index]);
  return {
    added: namesOnlyIn(theirs, mine),
    removed: namesOnlyIn(mine, theirs),
    changed: toSortedText([...differ, ...changed]),
  };
}

/** @internal Entries of both that differ, and files of which only their contents can tell. */
export function compareTrees(mine: Tree, theirs: Tree): { differ: string[]; doubtful: string[] } {
  const differ: string[] = [];
  const doubtful: string[] = [];
  for (const [name, one] of mine.entries) {
    const other = theirs.entries.get(name);
    if (!other) continue;
    if (one.mode !== other.mode || one.uid !== other.uid || one.gid !== other.gid)
      differ.push(name);
    else if (isDirectory(one) || (isOfImage(one, mine) && isOfImage(other, theirs))) continue;
    else if (!isRegular(one)) {
      if (one.inode !== other.inode || one.changedAt !== other.changedAt) differ.push(name);
    } else if (one.sizeBytes === other.sizeBytes) doubtful.push(name);
    else differ.push(name);
  }
  return { differ, doubtful };
}

/**
 * Overlayfs gives files the device of their layer (Documentation/filesystems/overlayfs.rst, "Inode properties"). Times would
 * not do: siblings do the same things in the same tick of their clocks, and stores to a mapping leave none.
 */
function isOfImage({ device }: TreeEntry, { upperDevice }: Tree): boolean {
  return upperDevice !== null && device !== upperDevice;
}

function namesOnlyIn(one: Tree, other: Tree): string[] {
  return toSortedText([...one.entries.keys()].filter((name) => !other.entries.has(name)));
}

function toSortedText(latin1: readonly string[]): string[] {
  return latin1.map((name) => Buffer.from(name, 'latin1').toString()).sort();
}
