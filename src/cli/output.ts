// Text for terminals: columns that line up, bars, numbers with units.

const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
const STEPS = 8;
const DIGEST_DIGITS = 12;
const KIB = 1024;
const MIB = KIB * KIB;

/** Columns of equal width; those named in `right` are flush right. */
export function formatTable(
  rows: readonly (readonly string[])[],
  right: readonly number[] = [],
): string[] {
  const columns = Math.max(...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, at) =>
    Math.max(...rows.map((row) => row[at]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, at) =>
        right.includes(at) ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
}

/** A bar of up to `width` characters, in eighths of one. */
export function formatBar(value: number, most: number, width: number): string {
  if (!(most > 0)) return '';
  const steps = Math.max(1, Math.round((Math.min(value, most) / most) * width * STEPS));
  return '█'.repeat(Math.floor(steps / STEPS)) + (EIGHTHS[steps % STEPS] ?? '');
}

export function formatMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms.toFixed(ms < 10 ? 2 : 0)} ms`;
}

export function formatBytes(bytes: number): string {
  if (bytes >= 1024 * MIB) return `${(bytes / MIB / 1024).toFixed(1)} GiB`;
  return bytes >= MIB ? `${(bytes / MIB).toFixed(1)} MiB` : `${Math.round(bytes / KIB)} KiB`;
}

/** The first digits of a digest, enough to tell images apart. */
export function shortDigest(digest: string): string {
  return digest.slice(digest.indexOf(':') + 1).slice(0, DIGEST_DIGITS);
}

/** One JSON document on standard output. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

export function printLines(lines: readonly string[]): void {
  process.stdout.write(`${lines.join('\n')}\n`);
}

/** A line about what is going on; standard output is for results. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}
