// Progress of a pull or an import, as often as a person can read it.

/** What happens to an image on its way into the store. */
export interface ImageProgress {
  /**
   * `resolve`: its manifest and config are fetched; `download` and `copy`: a layer comes from a registry or a file;
   * `exists`: the store has the layer already; `done`: the image is in the store.
   */
  readonly phase: 'resolve' | 'download' | 'copy' | 'exists' | 'done';
  /** Digest of the layer, in the phases that are about one. */
  readonly digest?: string;
  /** How much of the layer is there, in bytes; in phase `done` all of the image. */
  readonly doneBytes: number;
  /** All of it, in bytes. */
  readonly totalBytes: number;
}

/** Called for each step of progress. What it throws ends the operation. */
export type OnProgress = (progress: ImageProgress) => void;

const INTERVAL_MS = 100;

/** Reports how much of one layer is there: the beginning, the end, and at most ten times a second between. */
export function layerProgress(
  onProgress: OnProgress | undefined,
  phase: 'download' | 'copy',
  { digest, size: totalBytes }: { digest: string; size: number },
): (doneBytes: number) => void {
  if (!onProgress) return () => {};
  let reportedMs = Number.NEGATIVE_INFINITY;
  let reportedBytes = -1;
  return (doneBytes) => {
    const nowMs = performance.now();
    const isNews = doneBytes !== reportedBytes;
    if (!isNews || (doneBytes < totalBytes && nowMs - reportedMs < INTERVAL_MS)) return;
    reportedMs = nowMs;
    reportedBytes = doneBytes;
    onProgress({ phase, digest, doneBytes, totalBytes });
  };
}
