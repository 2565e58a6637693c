// The cache of built guest parts: one folder per part and content hash, outside the tree. A folder is published by
// one rename, so it is whole or absent; a lock lets one process build while others wait for its result.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { lock } from './lock.mjs';

/** The folder of part `name` with content hash `key`; `build(folder)` fills it when it is not there. */
export async function cached({ cacheDir, name, key, onProgress }, build) {
  const folder = join(cacheDir, 'guest', `${name}-${key.slice(0, 32)}`);
  if (existsSync(folder)) return { folder, cached: true };
  mkdirSync(dirname(folder), { recursive: true });
  const release = await lock(join(dirname(folder), `${name}.lock`), () =>
    onProgress(`${name}: another process builds it, waiting`),
  );
  try {
    if (existsSync(folder)) return { folder, cached: true };
    removeAbandoned(dirname(folder), name);
    await buildAndPublish(folder, build);
    return { folder, cached: false };
  } finally {
    await release();
  }
}

/** The work folders of killed builds: nobody else works on this part while we hold its lock. */
function removeAbandoned(parent, name) {
  const ofPart = new RegExp(`^${name}-[0-9a-f]+\\.tmp$`);
  for (const entry of readdirSync(parent).filter((candidate) => ofPart.test(candidate))) {
    rmSync(join(parent, entry), { recursive: true, force: true });
  }
}

async function buildAndPublish(folder, build) {
  const temporary = `${folder}.tmp`;
  mkdirSync(temporary);
  try {
    await build(temporary);
    renameSync(temporary, folder);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}
