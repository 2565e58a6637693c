// Clones of one snapshot in several processes: they share its memory, and a host that looks after each process's mappings
// has less to do for each of many hundreds (docs/tuning.md). This file is both sides.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Snapshot } from 'vmfork';

const PROCESSES = 2;
const CLONES_EACH = 3;

async function serve(name: string): Promise<void> {
  await using snapshot = await Snapshot.cached();
  const clones = await snapshot.fork({ count: CLONES_EACH, hostname: name });
  for (const clone of clones) {
    const { stdout } = await clone.exec(['hostname']);
    console.log(`process ${process.pid}: ${stdout.trim()}`);
  }
  await Promise.all(clones.map((clone) => clone.destroy()));
}

const [name] = process.argv.slice(2);
if (name === undefined) {
  const file = fileURLToPath(import.meta.url);
  const processes = Array.from({ length: PROCESSES }, (_, index) => fork(file, [`share-${index}`]));
  const exits = await Promise.all(processes.map((one) => once(one, 'exit')));
  if (exits.some(([code]) => code !== 0)) process.exitCode = 1;
} else {
  await serve(name);
}
