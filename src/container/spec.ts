// A container's process as it is asked for, checked, and turned into what the agent is told.

import { isAbsolute } from 'node:path';
import { type ByteString, isAbsolutePath, isByteString } from '../byte-string.js';
import { ENV, type Rules } from '../options.js';
import { RLIMIT_NAMES, type RlimitValue } from './rlimits.js';

/** How to run the main process of a container; each overrides what the image's config says. */
export interface ContainerOptions {
  /** Program and arguments. Default: the image's Cmd; with an entrypoint, its arguments. */
  argv?: readonly ByteString[] | undefined;
  /** Words before argv; an empty list means none. Given, the image's Cmd does not count. Default: the image's. */
  entrypoint?: readonly ByteString[] | undefined;
  /** Variables added to the image's, by name; names are text. Undefined takes the image's away. */
  env?: Readonly<Record<string, ByteString | undefined>> | undefined;
  /** Working directory, absolute; made when it is missing. Default: the image's, else `/`. */
  cwd?: ByteString | undefined;
  /** `name`, `uid`, `name:group` or `uid:gid`, looked up inside the image. Default: the image's, else root. */
  user?: string | undefined;
  /** Signal that asks it to stop, by name or number. Default: the image's, else SIGTERM. */
  stopSignal?: string | number | undefined;
  /** Put a small init process before it that collects orphans. Default false. */
  init?: boolean | undefined;
  /** All capabilities, nothing hidden of /proc. Default false. */
  privileged?: boolean | undefined;
  /** Capabilities added to Docker's default set: names with or without CAP_, or ALL. */
  capAdd?: readonly string[] | undefined;
  /** Capabilities taken away, as in {@link capAdd}. */
  capDrop?: readonly string[] | undefined;
  /** Set-user-id programs and file capabilities give nothing more. Default false. */
  noNewPrivileges?: boolean | undefined;
  /** The root filesystem cannot be written; volumes and tmpfs can. Default false. */
  readOnly?: boolean | undefined;
  /**
   * Filesystems in memory: path to options as of `docker run --tmpfs`, e.g. `size=64m,mode=1777`. The mode's default is that
   * of the image's directory.
   */
  tmpfs?: Readonly<Record<string, string>> | undefined;
  /** Directories that stay writable below a read-only root, besides the image's. */
  volumes?: readonly string[] | undefined;
  /** Resource limits by name (`nofile`, `nproc` …), one number for both or `{ soft, hard }`. */
  rlimits?: Readonly<Record<string, RlimitValue>> | undefined;
  /** Bits taken from the modes of new files, 0 to 0o777. Default: 0o022. */
  umask?: number | undefined;
  /** The kernel's preference for killing it when memory runs out, -1000 to 1000. */
  oomScoreAdj?: number | undefined;
  /** Most memory of the whole container, bytes, at least 1 MiB. Default: what the machine can spare. */
  memoryMaxBytes?: number | undefined;
  /** Most processes and threads. Default: no limit. */
  pidsMax?: number | undefined;
  /** Share of the processors, 1 to 10000. Default 100. */
  cpuWeight?: number | undefined;
}

/** A file system in memory. */
export interface TmpfsMount {
  path: string;
  /** Bits of docs/protocol.md. */
  flags: number;
  /** For the kernel, e.g. `size=65536k,mode=1777`. */
  options: string;
}

/** A resource limit as the kernel takes it. */
export interface Rlimit {
  resource: number;
  soft: bigint;
  hard: bigint;
}

/** Everything the agent needs to start a process of the container; nothing is left to look up but users and PATH. */
export interface ProcessSpec {
  argv: readonly ByteString[];
  /** `NAME=value`, each name once. */
  env: readonly ByteString[];
  cwd: ByteString;
  /** Empty: root. */
  user: string;
  /** A signal's number. */
  stopSignal: number;
  init: boolean;
  privileged: boolean;
  noNewPrivileges: boolean;
  readOnly: boolean;
  /** Bit n is capability number n. */
  capabilities: bigint;
  tmpfs: readonly TmpfsMount[];
  volumes: readonly string[];
  rlimits: readonly Rlimit[];
  umask?: number | undefined;
  oomScoreAdj?: number | undefined;
  memoryMaxBytes?: number | undefined;
  pidsMax?: number | undefined;
  cpuWeight?: number | undefined;
}

/** Most tmpfs mounts, and most volumes, that the agent takes. */
export const MAX_MOUNTS = 32;

const isText = (value: unknown): value is string =>
  typeof value === 'string' && !value.includes('\0');
const isPath = (value: unknown): boolean => isText(value) && isAbsolute(value);
const words = {
  accepts: 'an array of strings or Uint8Arrays without NUL',
  test: (value: unknown) => Array.isArray(value) && value.every(isByteString),
};
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const integer = (least: number, most: number) => ({
  accepts: `an integer from ${least} to ${most}`,
  test: (value: unknown) =>
    Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most,
});
const boolean = { accepts: 'a boolean', test: (value: unknown) => typeof value === 'boolean' };
const capabilities = {
  accepts: 'an array of capability names',
  test: (value: unknown) => Array.isArray(value) && value.every(isText),
};
/** Undefined takes a variable of the image's away. */
const environment = {
  accepts: 'an object of strings, Uint8Arrays or undefined, without NUL, names without =',
  test: (value: unknown) =>
    isRecord(value) &&
    ENV.test(
      Object.fromEntries(Object.entries(value).map(([name, content]) => [name, content ?? ''])),
    ),
};
const MIB = 1024 * 1024;

function isRlimit(value: unknown): boolean {
  const good = (limit: unknown) =>
    limit === Number.POSITIVE_INFINITY || (Number.isSafeInteger(limit) && Number(limit) >= 0);
  if (!isRecord(value)) return good(value);
  const { soft, hard, ...unknown } = value;
  return good(soft) && good(hard) && Number(soft) <= Number(hard) && !Object.keys(unknown).length;
}

/** The options of `clone.run()`, for `checkOptions`. */
export const CONTAINER_OPTIONS: Rules = {
  argv: words,
  entrypoint: words,
  env: environment,
  cwd: { accepts: 'an absolute path without NUL', test: isAbsolutePath },
  user: { accepts: 'name, uid, name:group or uid:gid', test: isText },
  stopSignal: {
    accepts: 'a signal name or number',
    test: (value) => isText(value) || Number.isSafeInteger(value),
  },
  init: boolean,
  privileged: boolean,
  capAdd: capabilities,
  capDrop: capabilities,
  noNewPrivileges: boolean,
  readOnly: boolean,
  tmpfs: {
    accepts: `an object of at most ${MAX_MOUNTS} absolute paths to option texts`,
    test: (value) =>
      isRecord(value) &&
      Object.keys(value).length <= MAX_MOUNTS &&
      Object.entries(value).every(([path, options]) => isPath(path) && isText(options)),
  },
  volumes: {
    accepts: `an array of at most ${MAX_MOUNTS} absolute paths`,
    test: (value) => Array.isArray(value) && value.length <= MAX_MOUNTS && value.every(isPath),
  },
  rlimits: {
    accepts: `an object of ${RLIMIT_NAMES.join(', ')} to numbers or { soft, hard }`,
    test: (value) =>
      isRecord(value) &&
      Object.entries(value).every(
        ([name, limit]) => RLIMIT_NAMES.includes(name) && isRlimit(limit),
      ),
  },
  umask: integer(0, 0o777),
  oomScoreAdj: integer(-1000, 1000),
  memoryMaxBytes: integer(MIB, Number.MAX_SAFE_INTEGER),
  pidsMax: integer(1, 4_194_304),
  cpuWeight: integer(1, 10_000),
};
