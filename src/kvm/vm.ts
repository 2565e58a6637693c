// What templates and clones have in common: a running guest to talk to.

import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import type { ByteString } from '../byte-string.js';
import type { AttachOptions, Rootfs } from '../container/attach.js';
import type { Container } from '../container/container.js';
import type { StreamOptions } from '../container/process.js';
import {
  ContainerRuntime,
  type RunOptions,
  type RunResult,
  type StartOptions,
} from '../container/runtime.js';
import type { Containment } from '../container/spec-json.js';
import type { VmforkError } from '../errors.js';
import type { Command } from '../exec/command.js';
import { dialTcp, dialUnix } from '../exec/dial.js';
import { type ExecResult, execute } from '../exec/exec.js';
import { readGuestFile, writeGuestFile } from '../exec/files.js';

import type { AgentInfo } from '../exec/messages.js';
import { releaseForkPoint } from '../exec/release.js';
import type { ConnectionListener } from '../exec/sockets.js';
import type { Tunnel } from '../exec/tunnel.js';
import type { NativeMemory } from '../native.js';
import {
  CONNECT_TCP_OPTIONS,
  type ConnectTcpOptions,
  checkGuestPath,
  checkOptions,
  checkValue,
  type ExecOptions,
  FORK_POINT_OPTIONS,
  type ForkPayload,
  type ForkPointOptions,
  PAYLOAD,
  PORT,
  type ReadFileOptions,
  SPAWN_OPTIONS,
  type SpawnOptions,
  TCP_PORT,
  WAIT_OPTIONS,
  type WriteFileOptions,
} from '../options.js';
import { throwIfAborted, type WaitOptions } from '../waiting.js';
import type { GuestConsole } from './console.js';
import type { DiskSource } from './disk-source.js';
import type { Identity } from './identity.js';
import type { VmState } from './lifecycle.js';
import type { Machine } from './machine.js';
import type { Timing } from './stage-clock.js';

/** Everything a VM object is made of. */
export interface VmParts {
  machine: Machine;
  identity: Identity;
  agent: AgentInfo;
  guest: string;
  containment: Containment;
  timings: Timing[];
  /** Called once, when it has ended in either way. */
  onOver?: () => void;
}

type Renewal = Pick<VmParts, 'identity' | 'timings' | 'containment'>;

interface VmEvents {
  /** It changed its state. */
  state: [to: VmState, from: VmState];
  /** It ended, by itself or by destroy(); the error's cause says why. */
  exit: [reason: VmforkError];
  /** A process of the guest waits to be forked at this fork point. */
  forkPoint: [name: string];
}

/**
 * A running guest. Every waiting call takes `{ signal, timeoutMs }` and rejects with `VMF_ABORTED` or `VMF_TIMEOUT`;
 * with `VMF_GONE` (its cause says why) when the guest ends; with `VMF_STATE` when docs/lifecycle.md does not allow it now.
 */
export abstract class Vm extends EventEmitter<VmEvents> {
  /** What the agent inside says about itself. */
  readonly agent: AgentInfo;
  /** Identity of the guest's build, or the kernel's path for a guest brought along. */
  readonly guest: string;
  /** @internal */
  protected readonly machine: Machine;
  #identity: Identity;
  #timings: Timing[];
  #runtime: ContainerRuntime;

  /** @internal Use `Template.boot()` or `snapshot.fork()`. */
  constructor({ machine, identity, agent, guest, containment, timings, onOver }: VmParts) {
    super();
    this.machine = machine;
    this.#identity = identity;
    this.agent = agent;
    this.guest = guest;
    this.#timings = timings;
    this.#runtime = new ContainerRuntime(machine, identity.hostname, containment);
    machine.observe({
      onState: (to, from) => this.emit('state', to, from),
      onExit: (reason) => {
        onOver?.();
        this.emit('exit', reason);
      },
      onForkPoint: (name) => this.emit('forkPoint', name),
    });
  }

  /** Who this guest is; no two have anything of it in common. */
  get identity(): Identity {
    return this.#identity;
  }

  /** How many forks lie between the boot and this VM: 0 for a template, 1 for a clone of its snapshot. */
  abstract get generation(): number;

  /** Number of this VM, unique in the process. */
  get id(): number {
    return this.machine.id;
  }

  get state(): VmState {
    return this.machine.state;
  }

  /** The serial console. */
  get console(): GuestConsole {
    return this.machine.console;
  }

  /** A round trip to the agent; resolves with its duration in milliseconds. */
  async ping(options: WaitOptions = {}): Promise<number> {
    checkOptions('ping', WAIT_OPTIONS, options);
    const startedAt = performance.now();
    await this.machine.sessionFor('ping').ping(undefined, options);
    return performance.now() - startedAt;
  }

  /**
   * Runs a command to its end. A non-zero exit code is a result. Rejects with `VMF_COMMAND_NOT_FOUND`,
   * `VMF_COMMAND_FAILED_TO_START`, `VMF_OUTPUT_LIMIT`; a command that was cut off is killed, and the error's `result`
   * holds what it had written.
   */
  exec(
    argv: readonly ByteString[],
    options: ExecOptions & { encoding: 'buffer' },
  ): Promise<ExecResult<Buffer>>;
  exec(argv: readonly ByteString[], options?: ExecOptions): Promise<ExecResult<string>>;
  async exec(
    argv: readonly ByteString[],
    options?: ExecOptions,
  ): Promise<ExecResult<string> | ExecResult<Buffer>> {
    this.machine.assertLegal('exec');
    return execute((streams) => this.#runtime.spawn(argv, streams), argv, options);
  }

  /** Starts a command and returns its streams at once; see {@link Command}. Limits kill it when they are hit. */
  spawn(argv: readonly ByteString[], options: SpawnOptions = {}): Command {
    checkOptions('spawn', SPAWN_OPTIONS, options);
    return this.#runtime.spawn(argv, options);
  }

  /**
   * Puts a root filesystem into the guest and mounts it, with /proc, /sys, /dev and what else a container expects, and a
   * layer for what the container writes. In a template before the snapshot, all clones share it, its page cache included; in
   * a clone it takes a moment. Rejects with `VMF_DISK`, `VMF_ROOTFS`, and with `VMF_STATE` when there is one already.
   */
  attach(rootfs: Rootfs | string, options: AttachOptions = {}): Promise<void> {
    return this.#runtime.attach(rootfs, options);
  }

  /** Unmounts the root filesystem and forgets what was written. Rejects with `VMF_ROOTFS` while a container runs. */
  detach(options: WaitOptions = {}): Promise<void> {
    checkOptions('detach', WAIT_OPTIONS, options);
    return this.#runtime.detach(options);
  }

  /**
   * Does here what clones of the next snapshot then need not do to attach a root filesystem or start a container. A snapshot
   * with a root filesystem does it by itself.
   */
  prepare(options: WaitOptions = {}): Promise<void> {
    checkOptions('prepare', WAIT_OPTIONS, options);
    return this.#runtime.prepare(options);
  }

  /**
   * Starts the main process of a container in the attached root filesystem, as the image's config says and the options
   * change it. Unless `keep` is given, the machine ends with it. Throws `VMF_OPTIONS`, `VMF_IMAGE_INVALID`, `VMF_STATE`.
   */
  start(options: StartOptions = {}): Container {
    return this.#runtime.start(options);
  }

  /**
   * {@link start}, and waits for the end: resolves with exit code and output. Rejects as `exec()` does; a container that
   * was cut off has been killed and, unless `keep` was given, its machine destroyed.
   */
  run(options: RunOptions & { encoding: 'buffer' }): Promise<RunResult<Buffer>>;
  run(options?: RunOptions): Promise<RunResult<string>>;
  run(options: RunOptions = {}): Promise<RunResult<string> | RunResult<Buffer>> {
    return this.#runtime.run(options);
  }

  /** The container that was started here, null before. */
  get container(): Container | null {
    return this.#runtime.container;
  }

  /** In a clone: takes over the container that was running when the snapshot was taken. Throws `VMF_STATE` when none was. */
  adopt(options: StreamOptions & { keep?: boolean } = {}): Container {
    return this.#runtime.adopt(options);
  }

  /** Unpacks a tar stream below a directory of the root filesystem. Rejects with `VMF_GUEST_FILE`. */
  async copyIn(
    path: ByteString,
    tar: Readable | AsyncIterable<Uint8Array>,
    options: WaitOptions = {},
  ): Promise<void> {
    checkOptions('copyIn', WAIT_OPTIONS, options);
    return this.#runtime.copyIn(path, tar, options);
  }

  /** A file or directory of the root filesystem as a tar stream, which fails with `VMF_GUEST_FILE`. */
  copyOut(path: ByteString, options: WaitOptions = {}): Readable {
    checkOptions('copyOut', WAIT_OPTIONS, options);
    return this.#runtime.copyOut(path, options);
  }

  /** Dials a vsock port of the guest, 1 to 4294967294. Rejects with `VMF_CONNECTION_REFUSED` when nobody listens. */
  async connect(port: number, options: WaitOptions = {}): Promise<Socket> {
    checkValue('port', PORT, port);
    checkOptions('connect', WAIT_OPTIONS, options);
    throwIfAborted('connect', options.signal);
    return this.machine.connect(port, options);
  }

  /**
   * Dials a TCP port of the guest, 1 to 65535; no network device is needed. Rejects with `VMF_CONNECTION_REFUSED` and the
   * guest's errno. The stream fails with `VMF_CONNECTION_LOST` when the program resets it.
   */
  async connectTcp(port: number, options: ConnectTcpOptions = {}): Promise<Tunnel> {
    checkValue('port', TCP_PORT, port);
    checkOptions('connectTcp', CONNECT_TCP_OPTIONS, options);
    return dialTcp(this.machine.sessionFor('connectTcp'), port, options);
  }

  /** Dials a Unix stream socket by its absolute path in the guest; else like {@link connectTcp}. */
  async connectUnix(path: ByteString, options: WaitOptions = {}): Promise<Tunnel> {
    checkGuestPath('connectUnix', path);
    checkOptions('connectUnix', WAIT_OPTIONS, options);
    return dialUnix(this.machine.sessionFor('connectUnix'), path, options);
  }

  /** Resolves with its name once a process of the guest waits to be forked (docs/fork-points.md). */
  async waitForForkPoint({ name, ...limits }: ForkPointOptions = {}): Promise<string> {
    checkOptions('waitForForkPoint', FORK_POINT_OPTIONS, { name, ...limits });
    return this.machine.sessionFor('waitForForkPoint').waitForForkPoint(name, limits);
  }

  /**
   * Gives a waiting process its payload here, without a fork; resolves with the stream to it. Rejects with
   * `VMF_FORK_POINT` when no process waits.
   */
  async releaseForkPoint(payload: ForkPayload = {}, limits: WaitOptions = {}): Promise<Tunnel> {
    checkValue('payload', PAYLOAD, payload);
    checkOptions('releaseForkPoint', WAIT_OPTIONS, limits);
    return releaseForkPoint(this.machine.sessionFor('releaseForkPoint'), payload, limits);
  }

  /** Accepts connections that the guest makes to this port of CID 2, until closed, aborted, or the VM ends. */
  listen(port: number, { signal, ...unknown }: { signal?: AbortSignal } = {}): ConnectionListener {
    checkValue('port', PORT, port);
    checkOptions('listen', { signal: WAIT_OPTIONS.signal as never }, { signal, ...unknown });
    throwIfAborted('listen', signal);
    const listener = this.machine.listen(port);
    const close = () => listener.close();
    signal?.addEventListener('abort', close, { once: true });
    listener.once('close', () => signal?.removeEventListener('abort', close));
    return listener;
  }

  /** Reads a file of the guest. Rejects with `VMF_GUEST_FILE` and the guest's errno. */
  async readFile(path: ByteString, options?: ReadFileOptions): Promise<Buffer> {
    return readGuestFile(this.machine.sessionFor('readFile'), path, options);
  }

  /** Writes a file of the guest. Rejects with `VMF_GUEST_FILE` and the guest's errno. */
  async writeFile(
    path: ByteString,
    content: string | Uint8Array | Readable | AsyncIterable<Uint8Array | string>,
    options?: WriteFileOptions,
  ): Promise<void> {
    return writeGuestFile(this.machine.sessionFor('writeFile'), path, content, options);
  }

  /** Stops the guest's processors; resolves when they stand. */
  pause(): Promise<void> {
    return this.machine.pause();
  }

  /** Lets a paused guest go on. */
  resume(): Promise<void> {
    return this.machine.resume();
  }

  /**
   * @internal Puts a disk into drive 0 (read-only) or 1; the guest finds its new size in its own time.
   * Rejects with `VMF_DISK`.
   */
  attachDisk(drive: number, disk: DiskSource): Promise<void> {
    return this.machine.attachDisk(drive, disk);
  }

  /** @internal Finishes requests under way and leaves the drive empty. Rejects with `VMF_DISK`. */
  detachDisk(drive: number): Promise<void> {
    return this.machine.detachDisk(drive);
  }

  /** @internal Makes a root filesystem that waits for its container ready for it in the clones; true: the guest is to rest then. */
  beforeSnapshot(limits: WaitOptions): Promise<boolean> {
    return this.#runtime.beforeSnapshot(limits);
  }

  /** @internal What of containers a snapshot hands on. */
  get containment(): Containment {
    return this.#runtime.containment;
  }

  /** @internal It is another guest from now on. */
  protected renew({ identity, timings, containment }: Renewal): void {
    this.#identity = identity;
    this.#timings = timings;
    this.#runtime = new ContainerRuntime(this.machine, identity.hostname, containment);
  }

  /** Guest memory by the kernel's own accounting, bytes. */
  memory(): Promise<NativeMemory> {
    return this.machine.memory();
  }

  /** Nanoseconds per stage of the boot or fork that made this VM, or of its newest reset. */
  timings(): Timing[] {
    return this.#timings.map((timing) => ({ ...timing }));
  }

  /** Ends the VM; resolves when its threads are gone and its memory is unmapped. Idempotent, legal in every state. */
  destroy(): Promise<void> {
    return this.machine.destroy();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }
}
