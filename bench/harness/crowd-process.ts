// A share of a crowd in a process of its own. Every change of a process's mappings is announced to all of its VMs, and so is
// every look of the host at whether a page was used: with a tenth of the VMs that costs a tenth (docs/tuning.md).
// Started as a program it is the other side: it does what it is told and says when it is done.

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { mapLimited } from '#src/concurrency.js';
import { type Clone, Snapshot } from '#src/index.js';
import { crowdEngine } from './crowd.js';

const FILE = fileURLToPath(import.meta.url);
// Guests that are busy at once only delay each other.
const WORKERS = 2;

type Step = 'prepare' | 'fork' | 'ping' | 'work' | 'destroy';

/** The side that tells. */
export class CrowdProcess {
  readonly #child: ChildProcess;
  readonly #gone: Promise<never>;

  /** For so many clones of the cached template with so much memory, of which each runs `work`. */
  constructor(memoryMiB: number, clones: number, work: readonly string[]) {
    this.#child = fork(FILE, [String(memoryMiB), String(clones), ...work]);
    this.#gone = once(this.#child, 'exit').then(([code, signal]) => {
      throw new Error(`a process of the crowd ended: ${signal ?? code}`);
    });
    this.#gone.catch(() => {});
  }

  /** Resolves when the snapshot is loaded. */
  async ready(): Promise<void> {
    await this.#said();
  }

  /** Resolves when all of its clones have done that. */
  async tell(step: Step): Promise<void> {
    this.#child.send(step);
    await this.#said();
  }

  /** Ends it, with whatever runs in it. */
  async end(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#gone.catch(() => {});
  }

  async #said(): Promise<void> {
    await Promise.race([once(this.#child, 'message'), this.#gone]);
  }
}

/** The side that is told. */
async function serve(memoryMiB: number, count: number, work: readonly string[]): Promise<void> {
  const engine = crowdEngine(count);
  const snapshot = await Snapshot.cached({ memoryMiB, engine });
  await (await snapshot.fork()).destroy();
  let clones: Clone[] = [];
  const steps: Record<Step, () => Promise<unknown>> = {
    prepare: () => snapshot.prepareShells(count),
    fork: async () => {
      clones = await snapshot.fork({ count });
    },
    ping: () => mapLimited(clones, WORKERS, (clone) => clone.ping()),
    work: () => mapLimited(clones, WORKERS, (clone) => clone.exec(work)),
    destroy: () => Promise.all(clones.map((clone) => clone.destroy())),
  };
  process.on('message', (step: Step) => {
    steps[step]().then(
      () => process.send?.('done'),
      (error) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
  process.send?.('ready');
}

if (process.argv[1] === FILE) {
  const [memoryMiB, count, ...work] = process.argv.slice(2);
  await serve(Number(memoryMiB), Number(count), work);
}
