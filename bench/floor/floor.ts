// The native program beside this file: the least that a fork has to do, into a recycled shell, a new one and none, and a fork in
// the textbook order, over the same snapshot. It links the core, so it is built with CMake; a package without the sources has none.

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type { Snapshot } from '#src/index.js';
import { cacheDirectory } from '#src/kvm/guest.js';

// This file runs from dist/bench/floor.
const BUILD = fileURLToPath(new URL('../../../scripts/cmake.mjs', import.meta.url));
const TARGET = 'fork_floor';

/** Samples of one run of the program. */
export interface FloorSamples {
  /** Recycled shells. */
  floor_ms: number[];
  /** Shells that nobody has used, with all clones alive. */
  new_floor_ms: number[];
  /** New VMs, the calls in the cheapest order. */
  cold_floor_ms: number[];
  /** New VMs, in the textbook order. */
  naive_ms: number[];
}

/** The program, and the snapshot that it forks. */
export class ForkFloor implements AsyncDisposable {
  readonly #program: string | null;
  readonly #directory: string;

  private constructor(program: string | null, directory: string) {
    this.#program = program;
    this.#directory = directory;
  }

  /** Builds the program, where there is something to build it from, and saves the snapshot for it. */
  static async prepare(snapshot: Snapshot): Promise<ForkFloor> {
    const program = existsSync(BUILD) ? await build() : null;
    // Beside the template: the filesystem is a part of what mapping a file costs.
    const directory = await mkdtemp(join(cacheDirectory(), 'bench-'));
    const floor = new ForkFloor(program, directory);
    await snapshot.save(floor.saved);
    return floor;
  }

  /** Where the snapshot is. Nobody replaces it meanwhile, as other programs may the cached template. */
  get saved(): string {
    return join(this.#directory, 'snapshot');
  }

  /** So many samples of each, all of one kind first; null without the program. */
  async sample(count: number): Promise<FloorSamples | null> {
    if (this.#program === null) return null;
    const { stdout } = await promisify(execFile)(this.#program, [this.saved, String(count)]);
    return JSON.parse(stdout) as FloorSamples;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
  }
}

async function build(): Promise<string> {
  const { buildPreset } = (await import(pathToFileURL(BUILD).href)) as {
    buildPreset(preset: string, options: { target: string }): Promise<string>;
  };
  return join(await buildPreset('plain', { target: TARGET }), TARGET);
}
