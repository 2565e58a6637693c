// A container: the main process that was started in a machine's root filesystem, and what can be done with it while it runs.

import { VmforkError } from '../errors.js';
import type { Command, ExitStatus } from '../exec/command.js';
import type { Machine } from '../kvm/machine.js';
import { checkOptions, integer, type Rules, TIMEOUT_MAX_MS } from '../options.js';
import { exitCodeOf, stopMain } from './process.js';
import type { ProcessSpec } from './spec.js';

const DEFAULT_GRACE_MS = 10_000;
const GRACE_MS = integer(0, TIMEOUT_MAX_MS);
const STOP_OPTIONS: Rules = {
  graceMs: {
    accepts: `${GRACE_MS.accepts}, or Infinity`,
    test: (value) => value === Number.POSITIVE_INFINITY || GRACE_MS.test(value),
  },
};
/** What a main process is killed for from outside, unlike one that did not start or whose machine was reset. */
const CUT_OFF: readonly string[] = ['VMF_TIMEOUT', 'VMF_ABORTED', 'VMF_OUTPUT_LIMIT'];

/** How a container ended. */
export interface ContainerExit {
  /** What `docker run` would exit with: the program's own code, or 128 and the number of the signal that ended it. */
  exitCode: number;
  /** The signal that ended the main process. */
  signal: NodeJS.Signals | null;
  /** The kernel killed a process of the container because its memory was used up. */
  oomKilled: boolean;
  /** Peak memory of the main process, KiB. */
  maxRssKiB: number;
}

/** A running container. Made by `vm.start()`; its machine ends with it unless `keep` was given. */
export class Container {
  /** The main process: its streams, `kill()`, `resize()`. */
  readonly main: Command;
  readonly #machine: Machine;
  readonly #spec: ProcessSpec;
  readonly #exited: Promise<ContainerExit>;
  #over = false;

  /** @internal Use `vm.start()`. */
  constructor(machine: Machine, main: Command, spec: ProcessSpec, keep: boolean) {
    this.#machine = machine;
    this.main = main;
    this.#spec = spec;
    this.#exited = this.#wait(keep);
    this.#exited.catch(() => {}); // Reported to whoever asks.
  }

  /** Whether the main process has not ended yet. */
  get running(): boolean {
    return !this.#over;
  }

  /**
   * Resolves when the main process has ended and, unless it is kept, the machine is gone. Rejects with
   * `VMF_COMMAND_NOT_FOUND` or `VMF_COMMAND_FAILED_TO_START` when it did not start (the machine stays), else as
   * `command.exited` does; one that was cut off takes its machine along, too.
   */
  get exited(): Promise<ContainerExit> {
    return this.#exited;
  }

  /**
   * Asks the main process to stop by its stop signal and kills it after `graceMs`: 0 to 2147483647, default 10000, Infinity
   * for never. Resolves with its end.
   */
  async stop(options: { graceMs?: number | undefined } = {}): Promise<ContainerExit> {
    checkOptions('stop', STOP_OPTIONS, options);
    const { graceMs = DEFAULT_GRACE_MS } = options;
    await stopMain(this.main, this.#spec.stopSignal, graceMs);
    return this.#exited;
  }

  /**
   * Lets go of the streams of the main process, which goes on: its input stays open and silent, what it writes is dropped,
   * its end is reported as ever. Does nothing when it is detached or has ended.
   */
  detach(): void {
    this.main.detach();
  }

  /**
   * Gives `main` new streams after {@link detach}, for what is written from now on. Throws `VMF_STATE` when it is not
   * detached or has ended.
   */
  attach(): Command {
    this.main.attach();
    return this.main;
  }

  async #wait(keep: boolean): Promise<ContainerExit> {
    let status: ExitStatus;
    try {
      status = await this.main.exited;
    } catch (error) {
      const isCutOff = VmforkError.is(error) && CUT_OFF.includes(error.code);
      if (isCutOff && !keep) await this.#machine.destroy();
      throw error;
    } finally {
      this.#over = true;
    }
    // Everything it wrote has arrived before its end did, and stays readable.
    if (!keep) await this.#machine.destroy();
    return {
      exitCode: exitCodeOf(status),
      signal: status.signal,
      oomKilled: status.oomKills > 0,
      maxRssKiB: status.maxRssKiB,
    };
  }
}
