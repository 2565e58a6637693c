// Locks between processes, those of flock(2): the kernel lets go of one with whoever holds it, however that ends, and wakes
// who waits. Node has no call for them, flock(1) has.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { Failure } from '../../scripts/lib/run.mjs';

// It holds the lock until its standard input ends, at the latest with the process at the other end.
const holder = 'exec 9>"$0"; flock -n 9 || { echo waits; flock 9 || exit; }; echo holds; exec cat';

/** Waits for the lock file at `path`, calling `onWait` once if it has to; resolves to what releases it. */
export async function lock(path, onWait = () => {}) {
  // Detached: the terminal's Ctrl-C is not for it.
  const child = spawn('sh', ['-c', holder, path], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  const ended = once(child, 'exit');
  const release = () => {
    child.stdin.end();
    return ended;
  };
  for await (const line of createInterface(child.stdout)) {
    if (line === 'waits') onWait();
    if (line === 'holds') return release;
  }
  throw new Failure(`cannot lock ${path}: is flock(1) there?`);
}
