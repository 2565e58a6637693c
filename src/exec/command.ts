// A running command in a guest, shaped like node:child_process's ChildProcess.

import { EventEmitter } from 'node:events';
import { type ByteString, textOf } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import { checkArgv, checkOptions, SPAWN_OPTIONS, type SpawnOptions } from '../options.js';
import {
  abortedError,
  Deferred,
  throwIfAborted,
  type WaitOptions,
  watchLimits,
  withLimits,
} from '../waiting.js';
import { failStream, GuestReadable, GuestWritable } from './byte-streams.js';
import { Aux, type Frame, FrameType } from './frames.js';
import {
  type AgentFailure,
  describeFailure,
  encodeExec,
  parseFailure,
  terminalSize,
} from './messages.js';
import type { OpenStream, Session } from './session.js';
import { signalName, signalNumber } from './signals.js';
import { Tag, type Tlv, TlvList } from './tlv.js';

/** The environment of a command that is given none. */
export const DEFAULT_ENV = { PATH: '/usr/bin:/usr/sbin', HOME: '/root' };
const PTY = 1;
const NO_STDIN = 2;
const STDERR_TO_STDOUT = 4;
const NO_BYTES = Buffer.alloc(0);

/** How a command ended: by exit code, or by signal. */
export interface ExitStatus {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  /** Peak memory of the command, KiB; 0 when the guest did not say. */
  maxRssKiB: number;
  /** Processes of its container that the kernel killed for want of memory while it ran; 0 outside of containers. */
  oomKills: number;
}

/** @internal What a command of a container has besides. */
export interface Contained {
  /** Container tags of its `EXEC`. */
  items?: readonly Tlv[];
  /** Nothing is started: the main process of the template becomes this command. */
  adopt?: boolean;
}

interface CommandEvents {
  /** The process runs. */
  spawn: [];
  /** The process ended; its streams may still have unread bytes. */
  exit: [exitCode: number | null, signal: NodeJS.Signals | null];
  /** The kernel killed processes of its container for want of memory: so many since it began. */
  oom: [kills: number];
  /** It could not be started, was aborted or timed out, or its machine ended. Emitted only when listened to; `exited` rejects too. */
  error: [error: VmforkError];
}

/** A command under way. Returned by `vm.spawn()` at once, before the guest has answered. */
export class Command extends EventEmitter<CommandEvents> {
  readonly argv: readonly ByteString[];
  readonly #stream: OpenStream;
  #stdin: GuestWritable | null;
  #stdout: GuestReadable;
  #stderr: GuestReadable | null;
  #attached = true;
  readonly #pid = new Deferred<number>();
  readonly #exited = new Deferred<ExitStatus>();
  readonly #stopWatching: () => void;
  #over = false;

  /** @internal Use `vm.spawn()`. */
  constructor(
    session: Session,
    argv: readonly ByteString[],
    options: SpawnOptions = {},
    { items = [], adopt = false }: Contained = {},
  ) {
    super();
    checkArgv(argv);
    checkOptions('spawn', SPAWN_OPTIONS, options);
    throwIfAborted('spawn', options.signal);
    this.argv = argv;
    const pty = options.pty === true ? { columns: 80, rows: 24 } : options.pty || undefined;
    const oneOutput = pty !== undefined || options.stderr === 'stdout';
    const aux =
      (pty ? PTY : 0) |
      (options.stdin === 'ignore' ? NO_STDIN : 0) |
      (options.stderr === 'stdout' ? STDERR_TO_STDOUT : 0);
    const env = options.env ?? (pty ? { ...DEFAULT_ENV, TERM: 'xterm-256color' } : DEFAULT_ENV);
    this.#stream = session.openStream(
      adopt ? { type: FrameType.ADOPT_MAIN } : { type: FrameType.EXEC, aux },
      adopt
        ? NO_BYTES
        : encodeExec(
            { argv, env, cwd: options.cwd, uid: options.uid, gid: options.gid, pty },
            items,
          ),
      { onFrame: (frame) => this.#onFrame(frame), onGone: (error) => this.#end(error) },
    );
    this.#stdin = options.stdin === 'ignore' ? null : new GuestWritable(this.#stream, Aux.STDIN);
    this.#stdout = new GuestReadable(this.#stream, Aux.STDOUT);
    this.#stderr = oneOutput ? null : new GuestReadable(this.#stream, Aux.STDERR);
    this.#stopWatching = watchLimits('spawn', options, (error) => this.abandon(error));
  }

  /** Null with `stdin: 'ignore'`. */
  get stdin(): GuestWritable | null {
    return this.#stdin;
  }

  get stdout(): GuestReadable {
    return this.#stdout;
  }

  /** Null with a pty or `stderr: 'stdout'`. */
  get stderr(): GuestReadable | null {
    return this.#stderr;
  }

  /** Resolves with the process id in the guest once it runs; rejects when it cannot be started. */
  get pid(): Promise<number> {
    return this.#pid.promise;
  }

  /** Resolves when the command has ended; rejects when it did not start, was aborted, timed out, or its machine ended. */
  get exited(): Promise<ExitStatus> {
    return this.#exited.promise;
  }

  /** Waits like {@link exited}, within limits; giving up leaves the command running. */
  async wait(limits: WaitOptions = {}): Promise<ExitStatus> {
    if (limits.signal?.aborted) throw abortedError('wait', limits.signal);
    return withLimits('wait', limits, this.exited);
  }

  /** Sends a signal to the process, or to its process group. Does nothing when it has ended. */
  kill(signal: NodeJS.Signals | number = 'SIGTERM', { group = false } = {}): void {
    const value = signalNumber(signal);
    if (!this.#over) this.#stream.send({ type: FrameType.SIGNAL, aux: group ? 1 : 0, value });
  }

  /** Changes the size of the terminal, in characters. */
  resize(size: { columns: number; rows: number }): void {
    checkOptions('resize', SPAWN_OPTIONS, { pty: size });
    if (!this.#over) this.#stream.send({ type: FrameType.RESIZE, value: terminalSize(size) });
  }

  /**
   * Lets go of the streams, and the command goes on: its input stays open and silent, what it writes is dropped. The streams
   * end behind what has come; input that was not sent is dropped.
   */
  detach(): void {
    if (!this.#attached || this.#over) return;
    this.#attached = false;
    this.#stdin?.release();
    this.#stdout = this.#next(this.#stdout, Aux.STDOUT).destroy();
    this.#stderr = this.#stderr && this.#next(this.#stderr, Aux.STDERR).destroy();
  }

  /** New streams after {@link detach}: what the command writes from now on. Throws `VMF_STATE` when it has some or has ended. */
  attach(): void {
    if (this.#over) throw new VmforkError('VMF_STATE', 'the command has ended');
    if (this.#attached) throw new VmforkError('VMF_STATE', 'its streams are attached');
    this.#attached = true;
    this.#stdin &&= new GuestWritable(this.#stream, Aux.STDIN, this.#stdin.release());
    this.#stdout = this.#next(this.#stdout, Aux.STDOUT);
    this.#stderr &&= this.#next(this.#stderr, Aux.STDERR);
  }

  /** Stops keeping the process alive. */
  unref(): void {
    this.#stream.unref();
  }

  /** @internal Kills the command's process group and reports `error` at once; what it still sends is dropped. */
  abandon(error: VmforkError): void {
    if (this.#over) return;
    this.kill('SIGKILL', { group: true });
    this.#stream.unref();
    this.#finish();
    this.#fail(error);
  }

  #next(before: GuestReadable, aux: number): GuestReadable {
    return new GuestReadable(this.#stream, aux, before.release());
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case FrameType.STARTED:
        this.#pid.resolve(frame.value);
        this.emit('spawn');
        break;
      case FrameType.DATA:
        this.#output(frame).receive(frame.payload);
        break;
      case FrameType.EOF:
        this.#output(frame).finish();
        break;
      case FrameType.WINDOW:
        if (frame.aux !== Aux.STDIN || !this.stdin) throw unexpected(frame);
        this.stdin.addCredit(frame.value);
        break;
      case FrameType.OOM:
        this.emit('oom', frame.value);
        break;
      case FrameType.EXIT:
        this.#onExit(frame);
        break;
      case FrameType.ERROR:
        this.#end(startError(this.argv, parseFailure(frame)));
        break;
      default:
        throw unexpected(frame);
    }
  }

  #output(frame: Frame): GuestReadable {
    if (frame.aux === Aux.STDOUT) return this.stdout;
    if (frame.aux === Aux.STDERR && this.stderr) return this.stderr;
    throw unexpected(frame);
  }

  #onExit(frame: Frame): void {
    const list = new TlvList(frame.payload);
    const rss = list.u64(Tag.MAX_RSS_KIB) ?? 0n;
    const oomKills = list.u32(Tag.OOM_KILLS) ?? 0;
    const signal = frame.aux === 0 ? null : signalName(frame.aux);
    const exitCode = signal === null ? frame.value : null;
    this.#stream.close();
    if (this.#over) return;
    this.#finish();
    this.stdout.finish();
    this.stderr?.finish();
    this.stdin?.destroy();
    this.#exited.resolve({ exitCode, signal, maxRssKiB: Number(rss), oomKills });
    this.emit('exit', exitCode, signal);
  }

  /** The stream is over without an exit status. */
  #end(error: VmforkError): void {
    this.#stream.close();
    if (this.#over) return;
    this.#finish();
    this.#fail(error);
  }

  #finish(): void {
    this.#over = true;
    this.#stopWatching();
  }

  #fail(error: VmforkError): void {
    this.#pid.reject(error);
    this.#exited.reject(error);
    for (const stream of [this.stdin, this.stdout, this.stderr])
      if (stream) failStream(stream, error);
    if (this.listenerCount('error') > 0) this.emit('error', error);
  }
}

function unexpected(frame: Frame): VmforkError {
  return new VmforkError(
    'VMF_PROTOCOL',
    `frame of type ${frame.type}, aux ${frame.aux} on a command`,
  );
}

function startError(argv: readonly ByteString[], failure: AgentFailure): VmforkError {
  const code = failure.stage === 'lookup' ? 'VMF_COMMAND_NOT_FOUND' : 'VMF_COMMAND_FAILED_TO_START';
  const detail = `${textOf(argv[0] ?? '')}: ${describeFailure(failure)}`;
  return new VmforkError(code, detail, { operation: failure.stage, errno: failure.errno });
}
