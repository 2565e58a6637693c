// Progress of images on their way in: a bar for each layer on a terminal, a line for each step elsewhere.

import { MultiBar, type SingleBar } from 'cli-progress';
import type { ImageProgress } from '../oci/progress.js';
import { formatBytes, note } from './output.js';

const DIGEST_DIGITS = 12;
const FORMAT = '{what}  {bar}  {done} of {all}';

/** Where progress goes. */
export interface Progress {
  report(progress: ImageProgress): void;
  /** Ends the bars; what is printed next begins on a line of its own. */
  stop(): void;
}

export function showProgress(): Progress {
  return process.stderr.isTTY ? new Bars() : new Lines();
}

class Bars implements Progress {
  readonly #multi = new MultiBar({
    format: FORMAT,
    stream: process.stderr,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
  });
  readonly #bars = new Map<string, SingleBar>();

  report({ phase, digest, doneBytes, totalBytes }: ImageProgress): void {
    if (digest === undefined) return;
    const payload = {
      what: phase === 'exists' ? `${short(digest)} is there` : short(digest),
      done: formatBytes(doneBytes),
      all: formatBytes(totalBytes),
    };
    const bar = this.#bars.get(digest);
    if (bar) bar.update(doneBytes, payload);
    else this.#bars.set(digest, this.#multi.create(totalBytes, doneBytes, payload));
  }

  stop(): void {
    this.#multi.stop();
  }
}

class Lines implements Progress {
  report({ phase, digest, doneBytes, totalBytes }: ImageProgress): void {
    if (digest === undefined) return;
    if (phase === 'exists') note(`${short(digest)}: is there`);
    else if (doneBytes === totalBytes) note(`${short(digest)}: ${formatBytes(totalBytes)}`);
  }

  stop(): void {}
}

function short(digest: string): string {
  const hex = digest.slice(digest.indexOf(':') + 1);
  return hex.slice(0, DIGEST_DIGITS);
}
