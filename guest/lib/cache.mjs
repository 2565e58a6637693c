// The cache of built guest parts: one folder per part and content hash, outside the tree. A folder is published by
// one rename, so it is whole or absent; a lock lets one process build while others wait for its result.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const lockPollMs = 250;

/** The folder of part `name` with content hash `key`; `build(folder)` fills it when it is not there. */
export async function cached({ cacheDir, name, key, onProgress }, build) {
  const folder = join(cacheDir, 'guest', `${name}-${key.slice(0, 32)}`);
  if (existsSync(folder)) return { folder, cached: true };
  mkdirSync(join(cacheDir, 'guest'), { recursive: true });
  const release = await lock(`${folder}.lock`, () =>
    onProgress(`${name}: another process builds it, waiting`),
  );
  try {
    if (existsSync(folder)) return { folder, cached: true };
    removeAbandoned(join(cacheDir, 'guest'), `${folder}.tmp`);
    await buildAndPublish(folder, build);
    return { folder, cached: false };
  } finally {
    release();
  }
}

/** What killed builds left behind: work folders without a living owner, and the one that we are about to make. */
function removeAbandoned(parent, own) {
  for (const name of readdirSync(parent).filter((entry) => entry.endsWith('.tmp'))) {
    const path = join(parent, name);
    const lockPath = path.replace(/tmp$/, 'lock');
    const busy = path !== own && existsSync(lockPath) && isOwnerAlive(lockPath);
    if (!busy) rmSync(path, { recursive: true, force: true });
  }
}

async function buildAndPublish(folder, build) {
  const temporary = `${folder}.tmp`;
  mkdirSync(temporary);
  try {
    await build(temporary);
    publish(temporary, folder);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function publish(temporary, folder) {
  try {
    renameSync(temporary, folder);
  } catch (error) {
    // Somebody took our lock over and was faster; the content is the same, because the key is.
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
  }
}

async function lock(path, onWait) {
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

function isOwnerAlive(path) {
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
