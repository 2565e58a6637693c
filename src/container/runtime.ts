// The container side of a machine: which root filesystem is mounted, which main process runs in it, and what is done with
// both. Handed on to clones through the snapshot.

import type { Readable } from 'node:stream';
import type { ByteString } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import { Command } from '../exec/command.js';
import { type ExecResult, execute } from '../exec/exec.js';
import type { Machine } from '../kvm/machine.js';
import type { ExecOptions, SpawnOptions } from '../options.js';
import type { WaitOptions } from '../waiting.js';
import {
  type Attached,
  type AttachOptions,
  attachRootfs,
  detachRootfs,
  type Rootfs,
} from './attach.js';
import { Container, type ContainerExit } from './container.js';
import { copyIn, copyOut } from './copy.js';
import { mergeConfig } from './merge-config.js';
import { adoptMain, type StreamOptions, startInside, startMain } from './process.js';
import { prepareContainer } from './rootfs.js';
import type { ContainerOptions, ProcessSpec } from './spec.js';
import type { Containment } from './spec-json.js';

/** Options of `vm.start()`. */
export interface StartOptions extends ContainerOptions, StreamOptions {
  /** Let the machine live on when the main process ends. Default false: a VM lives as long as its container. */
  keep?: boolean | undefined;
}

/** Options of `vm.run()`. */
export interface RunOptions
  extends ContainerOptions,
    Pick<ExecOptions, 'stdin' | 'pty' | 'stderr' | 'maxBuffer' | 'encoding'>,
    WaitOptions {
  /** Let the machine live on when the main process ends. Default false. */
  keep?: boolean | undefined;
}

/** What a container did. */
export interface RunResult<T extends string | Buffer = string> extends ContainerExit {
  argv: readonly ByteString[];
  stdout: T;
  /** Empty with a pty. */
  stderr: T;
  /** From the call to the end of the main process, milliseconds. */
  durationMs: number;
}

export class ContainerRuntime {
  readonly #machine: Machine;
  readonly #hostname: string;
  readonly #fixedDisks: number;
  #attached: Attached | null;
  #main: ProcessSpec | null;
  #container: Container | null = null;

  constructor(machine: Machine, hostname: string, { fixedDisks, rootfs, main }: Containment) {
    this.#machine = machine;
    this.#hostname = hostname;
    this.#fixedDisks = fixedDisks;
    this.#attached = rootfs;
    this.#main = main;
  }

  /** For a snapshot. */
  get containment(): Containment {
    return { fixedDisks: this.#fixedDisks, rootfs: this.#attached, main: this.#runningMain };
  }

  /** The container that was started or adopted here. */
  get container(): Container | null {
    return this.#container;
  }

  async attach(rootfs: Rootfs | string, options: AttachOptions = {}): Promise<void> {
    if (this.#attached) throw new VmforkError('VMF_STATE', 'a root filesystem is attached already');
    this.#attached = await attachRootfs(this.#machine, this.#fixedDisks, rootfs, options);
  }

  async detach(limits: WaitOptions = {}): Promise<void> {
    await detachRootfs(this.#machine, this.#attached, limits);
    this.#attached = null;
  }

  prepare(limits: WaitOptions = {}): Promise<void> {
    return prepareContainer(this.#machine.sessionFor('prepare'), limits);
  }

  /** Before a snapshot: a mounted root filesystem that waits for its container is made ready for it. True when one does. */
  async beforeSnapshot(limits: WaitOptions): Promise<boolean> {
    if (!this.#attached || this.#runningMain) return false;
    await this.prepare(limits);
    return true;
  }

  start({
    pty,
    stdin,
    stderr,
    signal,
    timeoutMs,
    keep = false,
    ...options
  }: StartOptions): Container {
    const session = this.#machine.sessionFor('start');
    const spec = this.#specOf(options, pty);
    const main = startMain(session, spec, this.#hostname, {
      pty,
      stdin,
      stderr,
      signal,
      timeoutMs,
    });
    return this.#begin(main, spec, keep);
  }

  /** Takes over the main process that runs since before the fork. */
  adopt({ keep = false, ...streams }: StreamOptions & { keep?: boolean } = {}): Container {
    const session = this.#machine.sessionFor('start');
    if (this.#container) return this.#container;
    const spec = this.#main;
    if (!spec) throw new VmforkError('VMF_STATE', 'no container was running when it was forked');
    return this.#begin(adoptMain(session, spec.argv, streams), spec, keep);
  }

  async run(options: RunOptions): Promise<RunResult<string> | RunResult<Buffer>> {
    const session = this.#machine.sessionFor('run');
    const { stdin, maxBuffer, encoding, signal, timeoutMs, pty, stderr, keep, ...rest } = options;
    const spec = this.#specOf(rest, pty);
    let container: Container | undefined;
    const start = (streams: SpawnOptions): Command => {
      const main = startMain(session, spec, this.#hostname, streams);
      container = this.#begin(main, spec, keep ?? false);
      return main;
    };
    const execOptions = { stdin, maxBuffer, encoding, signal, timeoutMs, pty, stderr };
    const result = await execute(start, spec.argv, execOptions as ExecOptions).catch(
      async (error) => {
        await container?.exited.catch(() => {}); // It is this error, and the machine is gone by then.
        throw error;
      },
    );
    const exit = await (container as unknown as Container).exited;
    const { argv, stdout, stderr: errors, durationMs } = result as ExecResult<string>;
    return { ...exit, argv, stdout, stderr: errors, durationMs };
  }

  /** A command of `vm.spawn()` and `vm.exec()`: in the container when one runs and nothing else is asked for. */
  spawn(argv: readonly ByteString[], options: SpawnOptions): Command {
    const { in: where, user, ...rest } = options;
    const spec = this.#runningMain;
    if (where === 'container' && !spec) {
      throw new VmforkError('VMF_STATE', 'no container is running');
    }
    if (!spec || where === 'guest') {
      if (user !== undefined) throw new VmforkError('VMF_OPTIONS', 'user needs a container');
      return new Command(this.#machine.sessionFor('spawn'), argv, rest);
    }
    const { uid, gid, ...streams } = rest;
    const ids = uid === undefined && gid === undefined ? undefined : `${uid ?? 0}:${gid ?? 0}`;
    return startInside(this.#machine.sessionFor('spawn'), argv, spec, this.#hostname, {
      ...streams,
      user: user ?? ids,
    });
  }

  copyIn(
    path: ByteString,
    tar: Readable | AsyncIterable<Uint8Array>,
    limits: WaitOptions,
  ): Promise<void> {
    return copyIn(this.#machine.sessionFor('copyIn'), path, tar, limits);
  }

  copyOut(path: ByteString, limits: WaitOptions): Readable {
    return copyOut(this.#machine.sessionFor('copyOut'), path, limits);
  }

  get #runningMain(): ProcessSpec | null {
    return this.#container && !this.#container.running ? null : this.#main;
  }

  #specOf(options: ContainerOptions, pty: SpawnOptions['pty']): ProcessSpec {
    if (!this.#attached) throw new VmforkError('VMF_STATE', 'no root filesystem is attached');
    if (this.#runningMain) throw new VmforkError('VMF_STATE', 'a container runs here already');
    return mergeConfig(this.#attached.config, options, { pty: Boolean(pty) });
  }

  #begin(main: Command, spec: ProcessSpec, keep: boolean): Container {
    this.#main = spec;
    this.#container = new Container(this.#machine, main, spec, keep);
    return this.#container;
  }
}
