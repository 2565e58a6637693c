// The cache of built guest parts: one folder per part and content hash, outside the tree. A folder is published by
// one rename, so it is whole or absent; a lock lets one process build while others wait for its result.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isOwnerAlive, lock } from './lock.mjs';

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
