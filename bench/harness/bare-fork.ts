// Forks below the library's own queue: all that the host does, without a wait for each guest in between. For questions about
// thousands of forks, each of which would else take as long as an interpreted guest needs to answer.

import { VmforkError } from '#src/errors.js';
import { Session } from '#src/exec/session.js';
import { socketFromFd } from '#src/exec/sockets.js';
import type { Snapshot } from '#src/index.js';
import type { VmEventSink } from '#src/kvm/engine.js';
import { FORK_RESUME } from '#src/kvm/identity.js';
import type { NativeForkOptions, NativeVm } from '#src/native.js';

const CONSOLE_BYTES = 4096;
const WORKERS = 2;

/** A clone of which only its machine is known. */
export class BareFork implements VmEventSink {
  readonly #snapshot: Snapshot;
  readonly #vm: NativeVm;
  #session: Session | undefined;
  #ended: VmforkError | undefined;

  private constructor(snapshot: Snapshot, vm: NativeVm) {
    this.#snapshot = snapshot;
    this.#vm = vm;
  }

  /** Resolves when the machine's state is restored and its guest runs, or waits for its turn to start. */
  static of(snapshot: Snapshot): Promise<BareFork> {
    const { engine, native } = snapshot.origin;
    const { identity, resume } = engine.identities.take();
    const options: NativeForkOptions = [identity.cid, resume, CONSOLE_BYTES];
    const forking = engine.fork(native, options, (vm) => new BareFork(snapshot, vm));
    engine.drawAhead();
    return forking;
  }

  /** Resolves when the guest has acknowledged its identity and answered a ping; rejects when it ended instead. */
  async answer(): Promise<void> {
    if (this.#ended) throw this.#ended;
    const socket = socketFromFd(this.#vm.takeControlFd());
    const onClosed = (error: VmforkError) => this.#session?.fail(this.#ended ?? error);
    this.#session = new Session(socket, { onClosed }, this.#snapshot.metadata);
    await this.#session.expectResumed(FORK_RESUME);
    await this.#session.ping();
    this.#vm.started();
  }

  async destroy(): Promise<void> {
    const gone = this.#vm.destroy();
    this.#session?.fail(new VmforkError('VMF_GONE', 'destroyed'));
    await gone;
    this.#snapshot.origin.engine.forget(this.#vm.id);
  }

  onExit(_machine: number, _code: string, message: string): void {
    this.#ended = new VmforkError('VMF_GONE', message);
    this.#session?.fail(this.#ended);
  }

  onConnection(): void {}

  onConsole(): void {}

  onEngineClosed(): void {
    this.onExit(0, 'VMF_GONE', 'its engine was closed');
  }
}

/** One clone in so many is waited for: forks that did not bring their guests to life would be no forks. */
const ANSWERED_OF = 500;

/** Forks and destroys as fast as it goes, a few at a time, until `goOn` says no; returns how many. */
export async function forkAndDestroy(
  snapshot: Snapshot,
  goOn: (begun: number) => boolean,
): Promise<number> {
  let begun = 0;
  const worker = async () => {
    while (goOn(begun)) {
      const isChecked = ++begun % ANSWERED_OF === 0;
      const fork = await BareFork.of(snapshot);
      if (isChecked) await fork.answer();
      await fork.destroy();
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
  return begun;
}
