// The limits of this process that bound how many clones fit.

import { readdir, readFile } from 'node:fs/promises';

/** What one clone takes at most, measured with one vCPU: file descriptors and memory mappings. */
const FDS_PER_CLONE = 10;
const MAPS_PER_CLONE = 12;

/** One limit: how much is used, how much there is. */
export interface Limit {
  used: number;
  most: number;
}

/** Limits of this process. */
export interface ProcessLimits {
  /** Open file descriptors (RLIMIT_NOFILE). */
  files: Limit;
  /** Memory mappings (vm.max_map_count). */
  maps: Limit;
  /** Clones that still fit within both. */
  clonesThatFit: number;
}

/** Reads the limits from /proc. */
export async function processLimits(): Promise<ProcessLimits> {
  const [limits, fds, maps, mostMaps] = await Promise.all([
    readFile('/proc/self/limits', 'utf8'),
    readdir('/proc/self/fd'),
    readFile('/proc/self/maps', 'utf8'),
    readFile('/proc/sys/vm/max_map_count', 'utf8'),
  ]);
  const files = { used: fds.length, most: softLimit(limits, 'Max open files') };
  const mappings = { used: maps.split('\n').length - 1, most: Number(mostMaps) };
  return { files, maps: mappings, clonesThatFit: clonesThatFit(files, mappings) };
}

/** @internal */
export function clonesThatFit(files: Limit, maps: Limit): number {
  const byFiles = (files.most - files.used) / FDS_PER_CLONE;
  const byMaps = (maps.most - maps.used) / MAPS_PER_CLONE;
  return Math.max(0, Math.floor(Math.min(byFiles, byMaps)));
}

/** @internal The soft limit of one line of /proc/self/limits. */
export function softLimit(text: string, name: string): number {
  const line = text.split('\n').find((candidate) => candidate.startsWith(name));
  const value = line?.slice(name.length).trim().split(/\s+/)[0];
  return value === 'unlimited' ? Number.POSITIVE_INFINITY : Number(value ?? 0);
}
