// A tree to the last attribute (test/kvm/programs/list.c), on the host and in a container, to be compared.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { Clone } from 'vmfork';
import { buildTestPrograms } from '../kvm/programs/build.mjs';
import { archive } from '../unit/oci/rootfs/tar-maker.js';

const MOST_BYTES = 64 * 1024 * 1024;
const program = () => join(buildTestPrograms(), 'list');

/** One line for each file below a directory of the host. */
export function listHere(root: string, ...leftOut: string[]): string[] {
  const output = execFileSync(program(), [root, ...leftOut], { maxBuffer: MOST_BYTES });
  return output.toString().trim().split('\n');
}

/** Leaves out the times of some, each of which must be there. */
export function withoutTimes(lines: readonly string[], names: readonly string[]): string[] {
  const left = new Set(names);
  const rest = lines.map((line) =>
    left.delete(line.slice(0, line.indexOf(' '))) ? line.replace(/ time=\S+/, '') : line,
  );
  if (left.size > 0) throw new Error(`not listed: ${[...left].join(', ')}`);
  return rest;
}

/** The same of a directory of the container; adds /list to its root. */
export async function listInside(
  clone: Clone,
  root: string,
  ...leftOut: string[]
): Promise<string[]> {
  const content = readFileSync(program());
  await clone.copyIn('/', Readable.from([archive({ name: 'list', mode: 0o755, content })]));
  const argv = ['/list', root, ...leftOut];
  const { stdout, stderr, exitCode } = await clone.run({
    argv,
    entrypoint: [],
    user: 'root',
    maxBuffer: MOST_BYTES,
    keep: true,
  });
  if (exitCode !== 0) throw new Error(`exit code ${exitCode}: ${stderr}`);
  return stdout.trim().split('\n');
}
