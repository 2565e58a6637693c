// The options of every public call: types, units, ranges, defaults, and their checks. A wrong option is refused with
// `VMF_OPTIONS`, which names it, says what it accepts and what it got; a misspelt one is recognised.

import { isIP } from 'node:net';
import { isAbsolute } from 'node:path';
import type { Readable } from 'node:stream';
import { inspect } from 'node:util';
import { type ByteString, isAbsolutePath, isByteString } from './byte-string.js';
import { VmforkError } from './errors.js';
import type { CloneScope } from './kvm/scope.js';
import type { OnBudget } from './memshare/budget.js';
import type { WaitOptions } from './waiting.js';

/** Options of `vm.spawn()`. */
export interface SpawnOptions extends WaitOptions {
  /** The whole environment of the command; names are text. Default: PATH and HOME, with a pty also TERM. */
  env?: Readonly<Record<string, ByteString>> | undefined;
  /** Working directory in the guest. Default `/`. */
  cwd?: ByteString | undefined;
  /**
   * Where it runs. Default: in the container when one is running, with its environment (`env` adds to it), directory, user
   * and privileges; else in the guest beside it.
   */
  in?: 'container' | 'guest' | undefined;
  /** In a container: `name`, `uid`, `name:group` or `uid:gid`, looked up inside the image. Default: the container's. */
  user?: string | undefined;
  /** User id, 0 to 4294967294. Default 0. */
  uid?: number | undefined;
  /** Group id, 0 to 4294967294. Default 0. */
  gid?: number | undefined;
  /** A terminal instead of pipes; sizes are 1 to 65535 characters. Default 80 x 24 when true. */
  pty?: boolean | { columns: number; rows: number } | undefined;
  /** `'ignore'` gives the command /dev/null. Default `'pipe'`. */
  stdin?: 'pipe' | 'ignore' | undefined;
  /** `'stdout'` joins standard error into standard output. Default `'pipe'`. */
  stderr?: 'pipe' | 'stdout' | undefined;
}

/** Options of `vm.exec()`. */
export interface ExecOptions extends Omit<SpawnOptions, 'stdin'> {
  /** What the command reads; default nothing. */
  stdin?: string | Uint8Array | Readable | AsyncIterable<Uint8Array | string> | undefined;
  /** Most bytes of stdout and stderr together, 1 to 1 GiB. Default 16 MiB. */
  maxBuffer?: number | undefined;
  /** `'utf8'` gives strings, `'buffer'` Buffers. Default `'utf8'`. */
  encoding?: 'utf8' | 'buffer' | undefined;
}

/** Options of `vm.readFile()`. */
export interface ReadFileOptions extends WaitOptions {
  /** Where to begin, bytes. Default 0. */
  offsetBytes?: number | undefined;
  /** Most bytes to read. Default all. */
  limitBytes?: number | undefined;
}

/** Options of `vm.writeFile()`. */
export interface WriteFileOptions extends WaitOptions {
  /** Permission bits of a new file, 0 to 0o7777. Default 0o644. */
  mode?: number | undefined;
  /** Write behind what is there. Default false: replace it. */
  append?: boolean | undefined;
  /** Make missing parent directories. Default false. */
  makeParents?: boolean | undefined;
  /** Refuse to touch a file that exists. Default false. */
  exclusive?: boolean | undefined;
}

/** Options of `Template.boot()`. */
export interface BootOptions {
  /** Guest memory, MiB, 32 to 65536. Default 128. */
  memoryMiB?: number | undefined;
  /** Virtual processors, 1 to 8. Default 1. */
  vcpus?: number | undefined;
  /** A vmlinux or bzImage for x86-64. Default: the kernel of the built guest. */
  kernelPath?: string | undefined;
  /** An initramfs whose /init speaks docs/protocol.md. Default: that of the built guest. */
  initrdPath?: string | undefined;
  /** Read-only disk images, at most 4, /dev/vda first; the agent mounts the first at /usr. Default: the built guest's userland. */
  diskPaths?: string[] | undefined;
  /** Words added to the kernel's command line. Default none. */
  cmdline?: string | undefined;
  /** Name of the guest, 1 to 64 of A-Z a-z 0-9 . and -. Default `vmfork-` and 8 hex digits. */
  hostname?: string | undefined;
  /** Longest wait for the agent's hello, ms. Default 60000. */
  bootTimeoutMs?: number | undefined;
  /** Newest console output kept, bytes, 4096 to 16 MiB. Default 64 KiB. */
  consoleBytes?: number | undefined;
  /** Gives up with `VMF_ABORTED`. */
  signal?: AbortSignal | undefined;
}

/** Options of `snapshot.fork()`. */
export interface ForkOptions {
  /** Name of the clone, as in {@link BootOptions}. With `count`, a number is added to each. */
  hostname?: string | undefined;
  /** Longest wait for the clone to acknowledge its identity, ms. Default 30000. */
  identityTimeoutMs?: number | undefined;
  /** Newest console output kept, bytes, 4096 to 16 MiB. Default 64 KiB. */
  consoleBytes?: number | undefined;
  /** How many clones, 1 to 10000; with it the result is an array. */
  count?: number | undefined;
  /**
   * For a process that waits at a fork point (docs/fork-points.md): it goes on in the clone, and `clone.forkPoint` is the
   * stream to it. A function gives each clone of `count` its own.
   */
  payload?: ForkPayload | ((index: number) => ForkPayload) | undefined;
  /** When the engine's memory budget is used up: wait, or fail with `VMF_NO_MEMORY`. Default: as the engine was told. */
  onBudget?: OnBudget | undefined;
  /** Longest wait for memory, ms; then `VMF_NO_MEMORY`. Default no limit. */
  budgetTimeoutMs?: number | undefined;
  /** The clone dies with this scope. Default: the scope of the snapshot, when it has one. */
  scope?: CloneScope | undefined;
  /** Gives up with `VMF_ABORTED`. */
  signal?: AbortSignal | undefined;
}

/** Options of `vm.snapshot()`; what is frozen must fit into the memory budget as a fork does. */
export type SnapshotOptions = WaitOptions & Pick<ForkOptions, 'onBudget' | 'budgetTimeoutMs'>;

/** Options of `clone.reset()`; each as in {@link ForkOptions}. */
export type ResetOptions = Pick<
  ForkOptions,
  'hostname' | 'identityTimeoutMs' | 'consoleBytes' | 'signal'
>;

/** Options of `vm.connectTcp()`. */
export interface ConnectTcpOptions extends WaitOptions {
  /** Numeric IPv4 or IPv6 address in the guest. Default `127.0.0.1`. */
  host?: string | undefined;
}

/** Options of `vm.waitForForkPoint()`. */
export interface ForkPointOptions extends WaitOptions {
  /** The fork point, 1 to 64 of A-Z a-z 0-9 . _ -. Default any. */
  name?: string | undefined;
}

/** What a process at a fork point is given; all of it together is at most 60 KiB. */
export interface ForkPayload {
  /** The fork point. Default that of the process that has waited longest. */
  name?: string | undefined;
  /** Arguments. Default none. */
  argv?: readonly ByteString[] | undefined;
  /** Environment variables; names are text. Default none. */
  env?: Readonly<Record<string, ByteString>> | undefined;
  /** Any bytes. Default none. */
  data?: string | Uint8Array | undefined;
}

/** One check: returns whether the value is acceptable. */
interface Rule {
  readonly accepts: string;
  readonly test: (value: unknown) => boolean;
}

/** The known options of a call. */
export type Rules = Readonly<Record<string, Rule>>;

export const integer = (least: number, most: number): Rule => ({
  accepts: `an integer from ${least} to ${most}`,
  test: (value) => Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most,
});
const boolean: Rule = { accepts: 'a boolean', test: (value) => typeof value === 'boolean' };
export const oneOf = (...values: string[]): Rule => ({
  accepts: values.map((value) => `'${value}'`).join(' or '),
  test: (value) => values.includes(value as string),
});
/** A string without NUL, which the guest could not take. */
const text = (accepts = 'a non-empty string'): Rule => ({ accepts, test: isText });
const textMatching = (accepts: string, pattern: RegExp): Rule => ({
  accepts,
  test: (value) => typeof value === 'string' && pattern.test(value),
});
export const object = (accepts: string, test: (value: object) => boolean = () => true): Rule => ({
  accepts,
  test: (value) => typeof value === 'object' && value !== null && test(value),
});

const U32_MAX = 0xffff_ffff;
/** The longest time a timer of Node can wait. */
export const TIMEOUT_MAX_MS = 0x7fff_ffff;

const timeoutMs = integer(1, TIMEOUT_MAX_MS);
export const WAIT_OPTIONS: Rules = {
  signal: object('an AbortSignal', (value) => value instanceof AbortSignal),
  timeoutMs,
};

export const ENV = object(
  'an object of strings or Uint8Arrays without NUL, names without =',
  (value) =>
    !Array.isArray(value) &&
    Object.entries(value).every(
      ([name, content]) => isText(name) && !name.includes('=') && isByteString(content),
    ),
);
const pty: Rule = {
  accepts: 'a boolean or { columns, rows } of 1 to 65535',
  test: (value) => typeof value === 'boolean' || isTerminalSize(value),
};

const COMMAND_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  env: ENV,
  cwd: {
    accepts: 'a non-empty string or Uint8Array without NUL',
    test: (value) => isByteString(value) && value.length > 0,
  },
  in: oneOf('container', 'guest'),
  user: text(),
  uid: integer(0, U32_MAX - 1),
  gid: integer(0, U32_MAX - 1),
  pty,
  stderr: oneOf('pipe', 'stdout'),
};
export const SPAWN_OPTIONS: Rules = { ...COMMAND_OPTIONS, stdin: oneOf('pipe', 'ignore') };
export const EXEC_OPTIONS: Rules = {
  ...COMMAND_OPTIONS,
  stdin: {
    accepts: 'a string, a Uint8Array or an async iterable',
    test: (value) =>
      typeof value === 'string' ||
      value instanceof Uint8Array ||
      (typeof value === 'object' && value !== null && Symbol.asyncIterator in value),
  },
  maxBuffer: integer(1, 2 ** 30),
  encoding: oneOf('utf8', 'buffer'),
};
export const READ_FILE_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  offsetBytes: integer(0, Number.MAX_SAFE_INTEGER),
  limitBytes: integer(0, Number.MAX_SAFE_INTEGER),
};
export const CONNECT_TCP_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  host: {
    accepts: 'a numeric IPv4 or IPv6 address',
    test: (value) => typeof value === 'string' && isIP(value) !== 0,
  },
};
const forkPointName = textMatching('1 to 64 of A-Z a-z 0-9 . _ -', /^[A-Za-z0-9._-]{1,64}$/);
export const FORK_POINT_OPTIONS: Rules = { ...WAIT_OPTIONS, name: forkPointName };
export const WRITE_FILE_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  mode: integer(0, 0o7777),
  append: boolean,
  makeParents: boolean,
  exclusive: boolean,
};

/** What a fork point's process may be given. */
export const PAYLOAD = object('an object of name, argv, env and data', isPayload);

const hostname = textMatching('1 to 64 characters of A-Z a-z 0-9 . -', /^[A-Za-z0-9.-]{1,64}$/);
const consoleBytes = integer(4096, 16 * 1024 * 1024);
const { signal } = WAIT_OPTIONS as { signal: Rule };
const MAX_DISKS = 4;

export const BOOT_OPTIONS: Rules = {
  memoryMiB: integer(32, 65_536),
  vcpus: integer(1, 8),
  kernelPath: text('a path'),
  initrdPath: text('a path'),
  diskPaths: {
    accepts: `an array of at most ${MAX_DISKS} paths`,
    test: (value) => Array.isArray(value) && value.length <= MAX_DISKS && value.every(isText),
  },
  cmdline: textMatching('at most 1024 printable ASCII characters', /^[ -~]{0,1024}$/),
  hostname,
  bootTimeoutMs: timeoutMs,
  consoleBytes,
  signal,
};
/** How many clones one call may ask for. */
export const CLONE_COUNT = integer(1, 10_000);
export const RESET_OPTIONS: Rules = {
  hostname,
  identityTimeoutMs: timeoutMs,
  consoleBytes,
  signal,
};
export const FORK_OPTIONS: Rules = {
  ...RESET_OPTIONS,
  count: CLONE_COUNT,
  payload: {
    accepts: `${PAYLOAD.accepts}, or a function that returns one`,
    test: (value) => typeof value === 'function' || PAYLOAD.test(value),
  },
  onBudget: oneOf('wait', 'refuse'),
  budgetTimeoutMs: timeoutMs,
  scope: object('a CloneScope', (value) => 'track' in value),
};
export const SNAPSHOT_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  onBudget: FORK_OPTIONS.onBudget as Rule,
  budgetTimeoutMs: timeoutMs,
};
export const DIFF_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  path: {
    accepts: 'an absolute path without NUL',
    test: (value) => isText(value) && isAbsolute(value as string),
  },
};
export const RACE_OPTIONS: Rules = { ...FORK_OPTIONS, keepWinner: boolean };

/** The range of a TCP port. */
export const TCP_PORT = integer(1, 65_535);

/** The range of a vsock port; the highest value means "any" (VMADDR_PORT_ANY in linux/vm_sockets.h). */
export const PORT = integer(1, U32_MAX - 1);

/** Refuses unknown options and values out of range. An option that is undefined counts as not given. */
export function checkOptions(call: string, rules: Rules, options: object): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw wrongOption(`options of ${call}()`, 'an object', options);
  }
  for (const [name, value] of Object.entries(options)) {
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined;
    if (!rule) throw unknownOption(call, name, Object.keys(rules));
    if (value !== undefined && !rule.test(value)) throw wrongOption(name, rule.accepts, value);
  }
}

/** Refuses a value that is no command line. */
export function checkArgv(argv: readonly ByteString[]): void {
  const good = Array.isArray(argv) && argv.every(isByteString) && Boolean(argv[0]?.length);
  if (!good) {
    throw wrongOption('argv', 'a non-empty array of strings or Uint8Arrays without NUL', argv);
  }
}

/** Refuses a path that the agent would. */
export function checkGuestPath(call: string, path: ByteString): void {
  if (!isAbsolutePath(path)) {
    throw wrongOption(`path of ${call}()`, 'an absolute path without NUL', path);
  }
}

/** Refuses one value by a rule. */
export function checkValue(name: string, rule: Rule, value: unknown): void {
  if (!rule.test(value)) throw wrongOption(name, rule.accepts, value);
}

function wrongOption(name: string, accepts: string, value: unknown): VmforkError {
  const got = inspect(value, {
    depth: 1,
    maxStringLength: 80,
    breakLength: Number.POSITIVE_INFINITY,
  });
  return new VmforkError('VMF_OPTIONS', `${name} must be ${accepts}, got ${got}`);
}

function unknownOption(call: string, name: string, known: string[]): VmforkError {
  const near = known.find(
    (candidate) => distance(name.toLowerCase(), candidate.toLowerCase()) <= 2,
  );
  const advice = near ? `did you mean ${near}?` : `known: ${known.join(', ')}`;
  return new VmforkError('VMF_OPTIONS', `${call}() has no option ${name}; ${advice}`);
}

/** Levenshtein distance: insertions, deletions and replacements that turn one word into the other. */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}

function isText(value: unknown): boolean {
  return typeof value === 'string' && value.length > 0 && !value.includes('\0');
}

function isPayload(value: object): boolean {
  const { name, argv = [], env = {}, data = '', ...unknown } = value as ForkPayload;
  return (
    (name === undefined || forkPointName.test(name)) &&
    Array.isArray(argv) &&
    argv.every(isByteString) &&
    ENV.test(env) &&
    (typeof data === 'string' || data instanceof Uint8Array) &&
    Object.keys(unknown).length === 0
  );
}

function isTerminalSize(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { columns, rows, ...unknown } = value as Record<string, unknown>;
  const size = integer(1, 65_535);
  return size.test(columns) && size.test(rows) && Object.keys(unknown).length === 0;
}
