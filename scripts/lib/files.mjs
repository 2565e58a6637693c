// File lists and content hashes: what lets every build step skip work whose inputs did not change.
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { lock } from '../../guest/lib/lock.mjs';
import { root } from './project.mjs';

/** All files under a folder of the project, sorted, relative to its root; [] when it is absent. */
export function listFiles(folder, accept = () => true) {
  const top = join(root, folder);
  if (!existsSync(top)) return [];
  return readdirSync(top, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter((path) => !path.includes('node_modules/') && accept(path))
    .sort();
}

/** One hash over names and contents of project files plus any extra strings. */
export function hashInputs(paths, extra = []) {
  const hash = createHash('sha256');
  for (const path of paths) {
    const content = readFileSync(join(root, path));
    hash.update(`${path}\0${content.length}\0`).update(content);
  }
  for (const text of extra) hash.update(`\0${text}`);
  return hash.digest('hex');
}

/** Runs `work` unless the stamp already holds `key` and `outputs` exist; true when it ran. */
export async function unlessCurrent(stampPath, key, outputs, work) {
  const current = existsSync(stampPath) && readFileSync(stampPath, 'utf8') === key;
  if (current && outputs.every((path) => existsSync(path))) return false;
  rmSync(stampPath, { force: true });
  await work();
  writeFileAtomic(stampPath, key);
  return true;
}

/** Lets one process at a time do `work` in this checkout. */
export async function withLock(name, work) {
  const path = join(root, 'build', `${name}.lock`);
  mkdirSync(dirname(path), { recursive: true });
  const release = await lock(path);
  try {
    return await work();
  } finally {
    await release();
  }
}

export function writeFileAtomic(path, content) {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, content);
  renameSync(temporary, path);
}

export const sizeOf = (path) => statSync(path).size;
