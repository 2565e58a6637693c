// The inner half of a VM: its native handle, its control session, its state, and how it ends. vm.ts is what users see.

import type { Socket } from 'node:net';
import { debug, logChannel, stateChannel } from '../diagnostics.js';
import { fromNative, isErrorCode, VmforkError } from '../errors.js';
import { Session, type SessionPast } from '../exec/session.js';
import { type ConnectionListener, socketFromFd } from '../exec/sockets.js';
import type { Charge } from '../memshare/budget.js';
import type {
  NativeForkOptions,
  NativeMemory,
  NativeMemoryDifference,
  NativeStage,
  NativeVm,
} from '../native.js';
import type { SnapshotOptions } from '../options.js';
import { Deferred, type WaitOptions } from '../waiting.js';
import { GuestConsole } from './console.js';
import { type DiskSource, kindOf } from './disk-source.js';
import type { Engine, VmEventSink } from './engine.js';
import { type Frozen, freezeAtRest, reserveLayer } from './freezing.js';
import { assertLegal, isOver, mayGo, type Operation, type VmState } from './lifecycle.js';
import { MachinePorts } from './ports.js';
import { Slots } from './slots.js';
import type { StageClock } from './stage-clock.js';

/** The port that agents dial (docs/protocol.md). */
export const CONTROL_PORT = 1024;
// A guest that ends closes its channel first; the reason follows from the vCPU's thread within this time.
const REASON_GRACE_MS = 500;

/** Told about changes of state and the end. */
export interface MachineObserver {
  onState(to: VmState, from: VmState): void;
  onExit(reason: VmforkError): void;
  onForkPoint(name: string): void;
}

export class Machine implements VmEventSink {
  readonly id: number;
  readonly console: GuestConsole;
  readonly #engine: Engine;
  readonly #native: NativeVm;
  readonly #charge: Charge | null;
  readonly #ports: MachinePorts;
  readonly #control = new Deferred<Session>();
  readonly #freezes = new Slots(1);
  #observer: MachineObserver | undefined;
  #session: Session | undefined;
  #state: VmState = 'starting';
  #gone: VmforkError | undefined;
  #teardown: Promise<void> | undefined;
  #resets = 0;
  /** A reset is with the engine: what ends the guest of before must not end the one to come. */
  #isRewinding = false;
  #afterFailedReset: (() => void) | undefined;

  /** `charge` is released when its threads are gone and its memory is unmapped. */
  constructor(engine: Engine, native: NativeVm, charge: Charge | null = null) {
    this.#engine = engine;
    this.#native = native;
    this.#charge = charge;
    this.id = native.id;
    this.console = new GuestConsole(native);
    this.#ports = new MachinePorts(native, () => this.#gone);
  }

  get engine(): Engine {
    return this.#engine;
  }

  get state(): VmState {
    return this.#state;
  }

  /** Nanoseconds per stage of the boot, the fork, or the newest reset. */
  get stages(): NativeStage[] {
    return this.#native.stages();
  }

  observe(observer: MachineObserver): void {
    this.#observer = observer;
  }

  /** The session, for an operation that is legal now; else `VMF_STATE`, or `VMF_GONE` with what ended the VM. */
  sessionFor(operation: Operation): Session {
    this.assertLegal(operation);
    return this.#session as Session;
  }

  assertLegal(operation: Operation): void {
    if (this.#gone) throw this.#gone;
    assertLegal(operation, this.#state);
  }

  /** The session of a booting VM, once its agent has dialled. */
  get control(): Promise<Session> {
    return this.#control.promise;
  }

  /** The session of a clone: its channel is open from the first moment. */
  openControl(past: SessionPast): Session {
    try {
      return this.#openSession(socketFromFd(this.#native.takeControlFd()), past);
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** It is itself and may be handed out. */
  ready(): void {
    this.#go('running');
    this.#native.started();
    this.#charge?.settle(async () => (await this.memory()).privateBytes);
  }

  async pause(): Promise<void> {
    this.assertLegal('pause');
    await this.#step('pausing', 'paused', () => this.#native.pause());
  }

  async resume(): Promise<void> {
    this.assertLegal('resume');
    await this.#step('resuming', 'running', () => this.#native.resume());
  }

  /**
   * Brings the agent to rest, freezes the machine, and lets it go on; one call after the other. `longRest`: the clones are
   * worth the time that the guest takes to finish what it puts off.
   */
  freeze(limits: SnapshotOptions, longRest: boolean): Promise<Frozen> {
    this.assertLegal('snapshot');
    return this.#freezes.run('snapshot', limits.signal, () =>
      this.#freezeAdmitted(limits, longRest),
    );
  }

  /** What the machine owns has to be there a second time, and is from then on shared. */
  async #freezeAdmitted(limits: SnapshotOptions, longRest: boolean): Promise<Frozen> {
    const { privateBytes } = await this.memory();
    this.#charge?.measured(privateBytes);
    const { budget } = this.#engine;
    const room = await reserveLayer(budget, privateBytes, this.#charge !== null, limits);
    try {
      return await this.#freezeNow(limits, longRest);
    } finally {
      room.release();
      if (!this.#gone) this.#charge?.measureAgain();
    }
  }

  async #freezeNow(limits: WaitOptions, longRest: boolean): Promise<Frozen> {
    const session = this.sessionFor('snapshot');
    this.#go('freezing');
    return freezeAtRest(
      session,
      () => this.#call(this.#native.snapshot()),
      () => this.#thaw(session),
      limits,
      longRest,
    );
  }

  async #thaw(session: Session): Promise<void> {
    if (this.#gone) return;
    await session.thaw();
    if (!this.#gone) this.#go('running');
  }

  /** Puts a disk into drive 0 (read-only) or 1; the guest finds the new size in its own time. Rejects with `VMF_DISK`. */
  async attachDisk(drive: number, disk: DiskSource): Promise<void> {
    this.assertLegal('attachDisk');
    const { path = null, scratchBytes = 0, serial = '' } = disk;
    const options = { kind: kindOf(disk), path, scratchBytes, serial };
    await this.#call(this.#native.attachDisk(drive, options));
  }

  /** Finishes requests under way and leaves the drive empty. Rejects with `VMF_DISK`. */
  async detachDisk(drive: number): Promise<void> {
    this.assertLegal('detachDisk');
    await this.#call(this.#native.detachDisk(drive));
  }

  async connect(port: number, limits: WaitOptions): Promise<Socket> {
    this.assertLegal('connect');
    return this.#ports.connect(port, limits);
  }

  listen(port: number): ConnectionListener {
    this.assertLegal('listen');
    if (port === CONTROL_PORT)
      throw new VmforkError('VMF_OPTIONS', `port ${port} is already in use`);
    return this.#ports.listen(port);
  }

  async memory(): Promise<NativeMemory> {
    this.assertLegal('memory');
    return this.#call(this.#native.memory());
  }

  /**
   * Back to the moment of its fork, and not itself yet: what was under way has failed with `VMF_RESET`. Resolves with the
   * new channel. When the reset itself fails, the machine runs on as it was.
   */
  async rewind(options: NativeForkOptions, past: SessionPast, clock: StageClock): Promise<Session> {
    const before = this.sessionFor('reset');
    const onRunning = () => clock.mark('reset');
    const done = this.#tryReset(options, onRunning);
    this.#go('resetting');
    if (!done) {
      await this.#resetLater(options);
      onRunning();
    }
    if (this.#gone) throw this.#gone;
    this.console.renew();
    this.#failPending(before, new VmforkError('VMF_RESET'));
    try {
      return this.openControl(past);
    } catch (error) {
      await this.destroy(); // What it was is gone already.
      throw error;
    }
  }

  #tryReset(options: NativeForkOptions, onRunning: () => void): boolean {
    try {
      const done = this.#native.tryReset(...options, onRunning);
      if (done) this.#resets++;
      return done;
    } catch (error) {
      throw fromNative(error);
    }
  }

  async #resetLater(options: NativeForkOptions): Promise<void> {
    this.#isRewinding = true;
    try {
      await this.#native.reset(...options);
      this.#rewound(true);
    } catch (error) {
      this.#rewound(false);
      throw this.#gone ?? fromNative(error);
    }
  }

  #rewound(succeeded: boolean): void {
    const end = this.#afterFailedReset;
    this.#afterFailedReset = undefined;
    this.#isRewinding = false;
    if (succeeded) this.#resets++;
    if (succeeded || this.#gone) return;
    this.#go('running');
    end?.();
  }

  /** In which pages the two may differ. */
  async compare(other: Machine): Promise<NativeMemoryDifference> {
    this.assertLegal('diff');
    return this.#native.compare(other.#native).catch((error) => {
      throw this.#gone ?? other.#gone ?? fromNative(error);
    });
  }

  /** Pairs of offset and length of what it has touched. */
  async touchedRanges(): Promise<BigUint64Array> {
    this.assertLegal('memory');
    return this.#call(this.#native.touchedRanges());
  }

  /** Ends it. Idempotent; resolves when its threads are gone and its memory is unmapped. */
  async destroy(): Promise<void> {
    if (this.#state !== 'destroyed') {
      this.#finish('destroyed', new VmforkError('VMF_GONE', 'it was destroyed by its owner'));
    }
    await this.#teardown;
  }

  /** It ended by itself, or broke a rule that ends it. */
  end(reason: VmforkError): void {
    if (!isOver(this.#state)) this.#finish('ended', reason);
  }

  onExit(machine: number, code: string, message: string): void {
    if (machine < this.#resets) return; // The news was on its way when that guest was reset.
    const end = () => this.end(new VmforkError(isErrorCode(code) ? code : 'VMF_INTERNAL', message));
    if (this.#isRewinding && machine === this.#resets) this.#afterFailedReset = end;
    else end();
  }

  onEngineClosed(): void {
    this.end(new VmforkError('VMF_GONE', 'its engine was closed'));
  }

  onConnection(port: number, _guestPort: number, fd: number): void {
    if (port === CONTROL_PORT && !this.#session && !this.#gone) {
      this.#control.resolve(this.#openSession(socketFromFd(fd), null));
      return;
    }
    this.#ports.accept(port, fd);
  }

  onConsole(bytes: Uint8Array): void {
    this.console.receive(bytes);
  }

  #openSession(socket: Socket, past: SessionPast | null): Session {
    const events = {
      onClosed: (error: VmforkError) => this.#onSessionClosed(session, error),
      onLog: (level: number, text: string) => {
        debug('vm %d: agent: %s', this.id, text);
        if (logChannel.hasSubscribers) logChannel.publish({ vm: this.id, level, text });
      },
      onForkPoint: (name: string) => this.#observer?.onForkPoint(name),
    };
    const session = new Session(socket, events, past);
    this.#session = session;
    return session;
  }

  #onSessionClosed(session: Session, error: VmforkError): void {
    const end = () => {
      if (session !== this.#session || isOver(this.#state)) return;
      // As it must when the reset succeeds.
      if (this.#isRewinding) this.#afterFailedReset ??= end;
      else this.end(error);
    };
    if (error.code === 'VMF_GONE') setTimeout(end, REASON_GRACE_MS);
    else end();
  }

  #failPending(session: Session | undefined, error: VmforkError): void {
    session?.fail(error);
    this.#ports.end(error);
  }

  /** When it has ended, that is why the engine failed. */
  #call<T>(work: Promise<T>): Promise<T> {
    return work.catch((error) => {
      throw this.#gone ?? fromNative(error);
    });
  }

  async #step(through: VmState, to: VmState, work: () => Promise<void>): Promise<void> {
    const from = this.#state;
    this.#go(through);
    try {
      await work();
    } catch (error) {
      if (!this.#gone) this.#go(from);
      throw this.#gone ?? fromNative(error);
    }
    if (this.#gone) throw this.#gone;
    this.#go(to);
  }

  #go(to: VmState): void {
    const from = this.#state;
    if (!mayGo(from, to)) throw new VmforkError('VMF_INTERNAL', `no way from ${from} to ${to}`);
    this.#state = to;
    debug('vm %d: %s -> %s', this.id, from, to);
    if (stateChannel.hasSubscribers) stateChannel.publish({ vm: this.id, from, to });
    this.#observer?.onState(to, from);
  }

  #finish(to: 'ended' | 'destroyed', reason: VmforkError): void {
    if (this.#gone) {
      this.#go(to); // It ended before and is destroyed now: everything below is done.
      return;
    }
    this.console.end();
    const consoleTail = this.console.tail();
    const gone = new VmforkError('VMF_GONE', reason.message, { cause: reason, consoleTail });
    this.#gone = gone;
    // First, because it stops the guest: an agent that saw its channel close would set about ending its kernel.
    this.#teardown = this.#native.destroy().then(
      () => {
        this.#engine.forget(this.id);
        this.#charge?.release();
      },
      (error) => {
        throw fromNative(error);
      },
    );
    this.#teardown.catch(() => {}); // reported by destroy()
    this.#control.reject(gone);
    this.#failPending(this.#session, gone);
    this.#go(to);
    this.#observer?.onExit(gone);
  }
}
