// `vmfork run IMAGE [CMD…]`: a container in a machine of its own, as `docker run --rm` would run it.

import type { StartOptions } from '../container/runtime.js';
import { findWarmed, type MachineShape } from '../container/warmed.js';
import type { Clone } from '../kvm/clone.js';
import type { Engine } from '../kvm/engine.js';
import type { Snapshot } from '../kvm/snapshot.js';
import type { StoredImage } from '../oci/image.js';
import { findImage, prepareRootfs } from '../oci/prepare.js';
import { ImageStore } from '../oci/store.js';
import type { Variables } from './arguments.js';
import { ensureGuest, type Intercept, readySnapshot, withEngine } from './engine.js';
import { reportFailure } from './failure.js';
import { note, printJson } from './output.js';
import { withProgress } from './progress.js';
import { FORWARDED_SIGNALS, forwardTo } from './signals.js';
import { attachTerminal, connectStreams, exitCodeAfter, terminalSize } from './terminal.js';
import { warmLater } from './warm.js';

/** Options of the command line. */
export interface RunCliOptions {
  json?: boolean;
  interactive?: boolean;
  tty?: boolean;
  env: Variables;
  workdir?: string;
  user?: string;
  /** MiB. */
  memory?: number;
  cpus?: number;
  entrypoint?: string;
  readOnly?: boolean;
  tmpfs?: Record<string, string>;
  init?: boolean;
  privileged?: boolean;
  capAdd?: string[];
  capDrop?: string[];
  /** Scratch disk instead of memory, MiB. */
  disk?: number;
  /** Whether to warm the image for later runs when it is not. */
  warm?: boolean;
}

/** A machine to run in, and whether it is a fork of the warmed image. */
interface ReadyMachine {
  clone: Clone;
  warmed: boolean;
}

/** Returns the exit code. */
export async function run(
  reference: string,
  argv: readonly string[],
  options: RunCliOptions,
): Promise<number> {
  try {
    let cold: StoredImage | undefined;
    const exitCode = await withEngine(async (engine, intercept) => {
      await ensureGuest();
      const image = await imageFor(reference, options);
      const machine = await machineFor(engine, image, options);
      await using clone = machine.clone;
      if (!machine.warmed) cold = image;
      return options.json
        ? await runForJson(machine, argv, options, intercept)
        : await runAttached(clone, argv, options, intercept);
    }, FORWARDED_SIGNALS);
    if (cold && options.warm !== false && options.disk === undefined) {
      await warmLater(cold, shapeOf(options));
    }
    return exitCode;
  } catch (error) {
    return reportFailure(error, options);
  }
}

const shapeOf = ({ memory, cpus }: RunCliOptions): MachineShape => ({
  memoryMiB: memory,
  vcpus: cpus,
});

async function imageFor(reference: string, { json }: RunCliOptions): Promise<StoredImage> {
  const store = await ImageStore.open();
  return withProgress(json, (onProgress) => findImage(store, reference, { onProgress }));
}

/** A fork of the warmed snapshot when there is one, else of the template, with the image attached. */
async function machineFor(
  engine: Engine,
  image: StoredImage,
  options: RunCliOptions,
): Promise<ReadyMachine> {
  const shape = shapeOf(options);
  const { disk } = options;
  const warmed = disk === undefined ? await findWarmed(engine, image, shape) : null;
  if (warmed) {
    await using snapshot = warmed;
    return { clone: await snapshot.fork(), warmed: true };
  }
  const [rootfs, { snapshot }] = await Promise.all([
    prepareRootfs(image),
    readySnapshot(engine, shape),
  ]);
  await using base: Snapshot = snapshot;
  const clone = await base.fork();
  try {
    await clone.attach(rootfs, disk === undefined ? {} : { writable: { diskMiB: disk } });
    return { clone, warmed: false };
  } catch (error) {
    await clone.destroy();
    throw error;
  }
}

async function runForJson(
  { clone, warmed }: ReadyMachine,
  argv: readonly string[],
  options: RunCliOptions,
  intercept: Intercept,
): Promise<number> {
  const stdin = options.interactive ? process.stdin : undefined;
  const running = clone.run({ ...containerOptions(argv, options), stdin });
  if (clone.container) intercept(forwardTo(clone.container));
  const result = await running;
  process.stdin.destroy();
  printJson({ ...result, warmed, machine: clone.identity, timings: clone.timings() });
  return result.exitCode;
}

async function runAttached(
  clone: Clone,
  argv: readonly string[],
  options: RunCliOptions,
  intercept: Intercept,
): Promise<number> {
  const container = clone.start({
    ...containerOptions(argv, options),
    stdin: options.interactive ? 'pipe' : 'ignore',
    ...(options.tty && { pty: terminalSize() }),
  });
  const restoreTerminal = options.tty ? attachTerminal(container.main) : () => {};
  intercept(forwardTo(container));
  try {
    const outputs = connectStreams(container.main);
    const { exitCode, oomKilled } = await container.exited;
    const failure = await outputs;
    if (oomKilled) note('vmfork: the container ran out of memory');
    return exitCodeAfter(failure, exitCode);
  } finally {
    intercept(null);
    restoreTerminal();
    process.stdin.destroy();
  }
}

function containerOptions(argv: readonly string[], options: RunCliOptions): StartOptions {
  const { env, workdir, user, entrypoint, readOnly, tmpfs, init, privileged } = options;
  const { capAdd, capDrop } = options;
  return {
    argv,
    env,
    cwd: workdir,
    user,
    entrypoint: entrypoint === undefined ? undefined : entrypoint === '' ? [] : [entrypoint],
    readOnly,
    tmpfs,
    init,
    privileged,
    capAdd,
    capDrop,
  };
}
