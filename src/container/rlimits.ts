// Names of resource limits, as `docker run --ulimit` and setrlimit(2) know them.

import type { Rlimit } from './spec.js';

/** One number for both limits, or each; Infinity for none. */
export type RlimitValue = number | { soft: number; hard: number };

// Numbers of linux/include/uapi/asm-generic/resource.h.
const RESOURCES: Readonly<Record<string, number>> = {
  cpu: 0,
  fsize: 1,
  data: 2,
  stack: 3,
  core: 4,
  rss: 5,
  nproc: 6,
  nofile: 7,
  memlock: 8,
  as: 9,
  locks: 10,
  sigpending: 11,
  msgqueue: 12,
  nice: 13,
  rtprio: 14,
  rttime: 15,
};
const UNLIMITED = 0xffff_ffff_ffff_ffffn;

/** Every name that {@link rlimitsOf} knows. */
export const RLIMIT_NAMES: readonly string[] = Object.keys(RESOURCES);

const toKernel = (limit: number): bigint =>
  limit === Number.POSITIVE_INFINITY ? UNLIMITED : BigInt(limit);

/** Limits for the agent. The names must be {@link RLIMIT_NAMES}. */
export function rlimitsOf(limits: Readonly<Record<string, RlimitValue>>): Rlimit[] {
  return Object.entries(limits).map(([name, value]) => {
    const { soft, hard } = typeof value === 'number' ? { soft: value, hard: value } : value;
    return { resource: RESOURCES[name] as number, soft: toKernel(soft), hard: toKernel(hard) };
  });
}
