// Lock files between processes: one at a time does the work, others wait; a lock whose owner died is taken over.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const lockPollMs = 250;

/** Waits for the lock file at `path`, calling `onWait` once if it has to; resolves to what releases it. */
export async function lock(path, onWait = () => {}) {
  for (let waited = false; !tryLock(path); await sleep(lockPollMs)) {
    if (!waited) onWait();
    waited = true;
  }
  const release = () => {
    process.off('exit', release);
    rmSync(path, { force: true });
  };
  process.on('exit', release);
  return release;
}

function tryLock(path) {
  try {
    writeFileSync(path, identityOf(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  if (!isOwnerAlive(path)) rmSync(path, { force: true });
  return false;
}

/** Whether the process that holds the lock still runs. */
export function isOwnerAlive(path) {
  try {
    const owner = readFileSync(path, 'utf8');
    // An empty file is a lock in the instant between its creation and the writing of its owner.
    return owner === '' || identityOf(Number.parseInt(owner, 10)) === owner;
  } catch {
    return false;
  }
}

/** Process id and start time (field 22 of /proc/PID/stat, proc(5)): an id alone may be in use again. */
function identityOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return `${pid} ${stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]}`;
}
