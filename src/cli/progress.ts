// Progress of images on their way in, on standard error: a bar for each layer on a terminal, a line for each step elsewhere,
// and for programs a line of JSON.

import { createRequire } from 'node:module';
import type { MultiBar, SingleBar } from 'cli-progress';
import type { ImageProgress } from '../oci/progress.js';
import { formatBytes, note, shortDigest } from './output.js';

// Loaded by the first bar; most commands show none.
const load = createRequire(import.meta.url);
const FORMAT = '{what}  {bar}  {done} of {all}';

interface Progress {
  report(progress: ImageProgress): void;
  /** Ends the bars; what is printed next begins on a line of its own. */
  stop(): void;
}

/** Shows the progress that `work` reports. */
export async function withProgress<T>(
  json: boolean | undefined,
  work: (onProgress: (progress: ImageProgress) => void) => Promise<T>,
): Promise<T> {
  const progress: Progress = json
    ? new JsonLines()
    : process.stderr.isTTY
      ? new Bars()
      : new Lines();
  try {
    return await work((step) => progress.report(step));
  } finally {
    progress.stop();
  }
}

class Bars implements Progress {
  readonly #bars = new Map<string, SingleBar>();
  #multi: MultiBar | undefined;

  report({ phase, digest, doneBytes, totalBytes }: ImageProgress): void {
    if (digest === undefined) return;
    const payload = {
      what: phase === 'exists' ? `${shortDigest(digest)} is there` : shortDigest(digest),
      done: formatBytes(doneBytes),
      all: formatBytes(totalBytes),
    };
    const bar = this.#bars.get(digest);
    if (bar) bar.update(doneBytes, payload);
    else this.#bars.set(digest, this.#begin().create(totalBytes, doneBytes, payload));
  }

  stop(): void {
    this.#multi?.stop();
  }

  #begin(): MultiBar {
    const { MultiBar } = load('cli-progress') as typeof import('cli-progress');
    this.#multi ??= new MultiBar({
      format: FORMAT,
      stream: process.stderr,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      hideCursor: true,
    });
    return this.#multi;
  }
}

class Lines implements Progress {
  report({ phase, digest, doneBytes, totalBytes }: ImageProgress): void {
    if (digest === undefined) return;
    if (phase === 'exists') note(`${shortDigest(digest)}: is there`);
    else if (doneBytes === totalBytes) note(`${shortDigest(digest)}: ${formatBytes(totalBytes)}`);
  }

  stop(): void {}
}

class JsonLines implements Progress {
  report(progress: ImageProgress): void {
    note(JSON.stringify(progress));
  }

  stop(): void {}
}
