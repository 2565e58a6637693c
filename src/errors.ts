// Every way to fail: one table of codes, what each means and what to do next, and the one error class that carries them.
// docs/errors.md shows the same table; a test compares the two.

import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

interface ErrorKind {
  /** What happened, the opening of every message with this code. */
  readonly summary: string;
  /** What to do next. */
  readonly hint: string;
}

/** All error codes with their meaning and advice. The keys are stable: match on them, not on messages. */
export const ERROR_CODES = {
  VMF_ABORTED: {
    summary: 'the operation was aborted',
    hint: 'the AbortSignal given to this call fired; its reason is the cause of this error',
  },
  VMF_ADDON: {
    summary: 'the native addon could not be loaded',
    hint: 'run `npm run build:native`; it needs Linux on x86-64, g++ 12 or newer, make and python3',
  },
  VMF_AGENT_MISMATCH: {
    summary: 'the guest agent and this library speak different protocol generations',
    hint: 'rebuild the guest with `npm run build:guest`, or take the snapshot again with this version',
  },
  VMF_BOOT_TIMEOUT: {
    summary: 'the guest did not report ready in time',
    hint: 'read consoleTail to see where it stopped; raise bootTimeoutMs when it is only slow',
  },
  VMF_COMMAND_FAILED_TO_START: {
    summary: 'the command could not be started',
    hint: 'the stage and errno name the step that failed: check cwd, uid, gid and the program file',
  },
  VMF_COMMAND_NOT_FOUND: {
    summary: 'the command was not found in the guest',
    hint: 'give an absolute path, or set PATH in env; argv[0] must be an executable of the guest',
  },
  VMF_CONNECTION_LOST: {
    summary: 'a connection into the guest broke',
    hint: 'the program in the guest reset it or died; errno is the guest’s',
  },
  VMF_CONNECTION_REFUSED: {
    summary: 'nobody listens on that port or socket of the guest',
    hint: 'start the listener in the guest first; connections do not survive a fork',
  },
  VMF_DISK: {
    summary: 'a disk cannot be attached, detached or copied',
    hint: 'the message says why: the drive is in use, empty or read-only, or the file is missing, not permitted or no disk',
  },
  VMF_EMULATION: {
    summary: 'the guest ran an instruction that nobody can emulate',
    hint: 'the message names bytes and address; boot the kernel with the command line vmfork proposes',
  },
  VMF_FORK_POINT: {
    summary: 'no process waits at that fork point',
    hint: 'await template.waitForForkPoint() before the snapshot; a process is released only once',
  },
  VMF_GONE: {
    summary: 'the virtual machine has ended',
    hint: 'the cause says why it ended; fork a new clone',
  },
  VMF_GUEST_CRASH: {
    summary: 'the guest crashed (triple fault or shutdown)',
    hint: 'read consoleTail; a kernel that does not fit the host often ends this way',
  },
  VMF_GUEST_FILE: {
    summary: 'a file operation in the guest failed',
    hint: 'errno is the guest’s; the path must be absolute and is resolved inside the guest',
  },
  VMF_GUEST_IO: {
    summary: 'the guest broke the rules of a virtual device',
    hint: 'the guest’s driver is faulty or hostile; destroy the clone and fork again',
  },
  VMF_GUEST_MISSING: {
    summary: 'the default guest has not been built',
    hint: 'run `npm run build:guest` once, or give kernelPath and initrdPath',
  },
  VMF_GUEST_PANIC: {
    summary: 'the guest’s kernel panicked',
    hint: 'read consoleTail for the kernel’s reason',
  },
  VMF_GUEST_RESET: {
    summary: 'the guest rebooted itself',
    hint: 'a virtual machine ends when its guest reboots; fork again from the snapshot',
  },
  VMF_IDENTITY: {
    summary: 'the clone did not acknowledge its identity',
    hint: 'the clone was destroyed; raise identityTimeoutMs on a busy host, else rebuild the guest',
  },
  VMF_IMAGE_DIGEST: {
    summary: 'the content is not what its digest says',
    hint: 'the registry, a proxy or the disk damaged it; try again, then ask the publisher of the image',
  },
  VMF_IMAGE_INVALID: {
    summary: 'the image breaks the image specification',
    hint: 'the message names the part that does not fit; build or export the image again',
  },
  VMF_IMAGE_NOT_FOUND: {
    summary: 'there is no such image',
    hint: 'check the name, the tag and the platform; a private image also looks missing without credentials',
  },
  VMF_IMAGE_REFERENCE: {
    summary: 'the image reference is malformed',
    hint: 'write [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case, as for `docker pull`',
  },
  VMF_IMAGE_UNSUPPORTED: {
    summary: 'the image is of a kind that vmfork cannot use',
    hint: 'use a Linux container image with plain, gzip or zstd layers, for the platform asked for',
  },
  VMF_INTERNAL: {
    summary: 'a defect of vmfork itself',
    hint: 'please report it with the message and stack',
  },
  VMF_KERNEL_ARCH: {
    summary: 'the kernel is for another processor',
    hint: 'give an x86-64 vmlinux or bzImage',
  },
  VMF_KERNEL_INVALID: {
    summary: 'the kernel file cannot be loaded',
    hint: 'give an ELF64 vmlinux or a bzImage; the file may be damaged or truncated',
  },
  VMF_KERNEL_NOT_FOUND: {
    summary: 'a file of the guest cannot be opened',
    hint: 'check kernelPath, initrdPath and diskPaths, and that this user may read them',
  },
  VMF_KVM_CAPABILITY: {
    summary: 'KVM lacks something the engine needs',
    hint: '`npx vmfork doctor` lists what is missing; a newer host kernel may have it',
  },
  VMF_KVM_DENIED: {
    summary: '/dev/kvm may not be opened',
    hint: 'add this user to group kvm, or fix the access control list of /dev/kvm',
  },
  VMF_KVM_MISSING: {
    summary: 'there is no /dev/kvm',
    hint: 'enable virtualization in the firmware or the cloud instance, and load kvm_intel or kvm_amd',
  },
  VMF_LAYER_INVALID: {
    summary: 'a layer is damaged or hostile',
    hint: 'the message names layer, offset and entry; pull the image again, or rebuild it with other tools',
  },
  VMF_LAYER_LIMIT: {
    summary: 'a layer is larger than its limits allow',
    hint: 'the message names the limit; raise it in limits when the image is to be trusted',
  },
  VMF_MEMORY_SIZE: {
    summary: 'the guest memory size does not fit',
    hint: 'kernel and initramfs must fit below memoryMiB; 32 MiB to 64 GiB are supported',
  },
  VMF_NO_MEMORY: {
    summary: 'the host is out of memory',
    hint: 'destroy clones, lower memoryMiB, or raise the limits of this process or its cgroup',
  },
  VMF_OPTIONS: {
    summary: 'an option is wrong',
    hint: 'the message names the option, what it accepts and what it got',
  },
  VMF_OUTPUT_LIMIT: {
    summary: 'the command wrote more than maxBuffer bytes',
    hint: 'raise maxBuffer, or use spawn() and read its streams; result holds what came before',
  },
  VMF_PROTOCOL: {
    summary: 'the guest agent broke the control protocol',
    hint: 'the guest is faulty or hostile; the virtual machine was destroyed',
  },
  VMF_RACE: {
    summary: 'nobody won the race',
    hint: 'the cause is an AggregateError with the reason of each clone; all clones were destroyed',
  },
  VMF_REGISTRY: {
    summary: 'the registry did not serve the request',
    hint: 'status and message say what it answered; when it is only busy or unreachable, try again later',
  },
  VMF_REGISTRY_AUTH: {
    summary: 'the registry refused the credentials',
    hint: 'log in with `docker login`, or give auth; the account must be allowed to pull this image',
  },
  VMF_RESET: {
    summary: 'the clone was reset to its fork point',
    hint: 'what was under way in it is gone; call again',
  },
  VMF_ROOTFS: {
    summary: 'the root filesystem cannot be mounted',
    hint: 'the stage names the step and errno the reason: the image may be damaged, or the guest’s kernel lacks its file system',
  },
  VMF_SNAPSHOT_INCOMPATIBLE: {
    summary: 'the snapshot was made for another host or version',
    hint: 'take the snapshot again on this host with this version',
  },
  VMF_SNAPSHOT_INVALID: {
    summary: 'the snapshot is damaged or is not a snapshot',
    hint: 'the message names the part that does not fit; take the snapshot again',
  },
  VMF_STATE: {
    summary: 'the operation is not legal in this state',
    hint: 'docs/lifecycle.md shows what is legal when',
  },
  VMF_STORE: {
    summary: 'the image store could not be read or written',
    hint: 'operation and errno say which step and why; check space, permissions and that dir is a vmfork store',
  },
  VMF_SYSTEM: {
    summary: 'an operating system call failed',
    hint: 'operation and errno say which call and why',
  },
  VMF_TIMEOUT: {
    summary: 'the operation took longer than timeoutMs',
    hint: 'raise timeoutMs, or find out what the guest is doing with consoleTail',
  },
  VMF_TOO_MANY_FILES: {
    summary: 'too many open files',
    hint: 'raise RLIMIT_NOFILE (ulimit -n) or destroy clones; `npx vmfork doctor` says how many fit',
  },
  VMF_TOO_MANY_MAPS: {
    summary: 'too many memory mappings',
    hint: 'raise vm.max_map_count with sysctl, or destroy clones',
  },
} as const satisfies Record<string, ErrorKind>;

/** A stable error code, e.g. `VMF_GONE`. */
export type ErrorCode = keyof typeof ERROR_CODES;

/** What a {@link VmforkError} may carry besides its code and detail. */
export interface ErrorContext {
  /** The system call, ioctl or step that failed. */
  operation?: string;
  /** errno, as a positive number. */
  errno?: number;
  /** What the registry answered: an HTTP status. */
  status?: number;
  cause?: unknown;
  /** The newest console output of a guest that ended or did not come up. */
  consoleTail?: string;
  /** What a command had produced when it was cut off: an `ExecResult`. */
  result?: unknown;
}

// Two copies of this library in one process must recognise each other's errors, so `instanceof` alone will not do.
const BRAND = Symbol.for('vmfork.error');

/** The one error class of this library. `code` is stable; `hint` says what to do next. */
export class VmforkError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  declare readonly operation?: string;
  declare readonly errno?: number;
  declare readonly status?: number;
  declare readonly consoleTail?: string;
  declare readonly result?: unknown;

  constructor(code: ErrorCode, detail = '', context: ErrorContext = {}) {
    const { summary, hint } = ERROR_CODES[code];
    const { cause, ...carried } = context;
    super(detail ? `${summary}: ${detail}` : summary, cause === undefined ? undefined : { cause });
    this.code = code;
    this.hint = hint;
    Object.assign(this, carried);
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** Whether a value is an error of this library, from whichever copy of it. */
  static is(value: unknown): value is VmforkError {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}

VmforkError.prototype.name = 'VmforkError';

/** Turns what the addon threw (an Error with own properties code, operation, errno, detail) into a VmforkError. */
export function fromNative(thrown: unknown): VmforkError {
  if (VmforkError.is(thrown)) return thrown;
  const native = (thrown instanceof Error ? thrown : { message: String(thrown) }) as {
    message: string;
    code?: unknown;
    operation?: unknown;
    errno?: unknown;
    detail?: unknown;
  };
  if (!isErrorCode(native.code)) {
    return new VmforkError('VMF_INTERNAL', native.message, { cause: thrown });
  }
  const operation = typeof native.operation === 'string' ? native.operation : undefined;
  const detail = typeof native.detail === 'string' ? native.detail : '';
  const errno = typeof native.errno === 'number' && native.errno > 0 ? native.errno : undefined;
  const text = [operation, detail, errno && errnoName(errno)].filter(Boolean).join(': ');
  return new VmforkError(native.code, text || native.message, {
    ...(operation && { operation }),
    ...(errno && { errno }),
    cause: thrown,
  });
}

/** Whether a value is one of this library's codes. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERROR_CODES, value);
}

// What libuv has no name for, e.g. ENOEXEC, which a program for another processor fails with.
const MORE_NAMES = new Map(Object.entries(constants.errno).map(([name, errno]) => [errno, name]));

/** The name of an errno, e.g. `ENOENT` for 2. */
export function errnoName(errno: number): string {
  return getSystemErrorMap().get(-errno)?.[0] ?? MORE_NAMES.get(errno) ?? `errno ${errno}`;
}
