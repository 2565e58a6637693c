// Compiles src/, bench/ and examples/ into dist/. Skips what a hash of all inputs says is unchanged.
import { chmodSync, existsSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { hashInputs, listFiles, unlessCurrent, withLock } from './lib/files.mjs';
import { root } from './lib/project.mjs';
import { main, mustRun, step } from './lib/run.mjs';

const isSource = (path) => path.endsWith('.ts');
const configs = ['tsconfig.json', 'package.json', 'package-lock.json'];

// In this order: bench and examples import what the first one emits.
const parts = [
  { folder: 'src', config: 'tsconfig.build.json', out: 'dist' },
  { folder: 'bench', config: 'tsconfig.bench.json', out: 'dist/bench' },
  { folder: 'examples', config: 'tsconfig.examples.json', out: 'dist/examples' },
];

export const buildTypeScript = () => withLock('build-ts', buildParts);

async function buildParts() {
  const notes = [];
  const library = listFiles('src', isSource);
  for (const { folder, config, out } of parts) {
    const sources = listFiles(folder, isSource);
    if (sources.length === 0) continue;
    const key = hashInputs([...configs, config, ...new Set([...library, ...sources])]);
    const stamp = join(root, `build/ts-${folder}.hash`);
    const ran = await unlessCurrent(stamp, key, [join(root, out)], () => compile(config, out));
    if (ran) notes.push(folder);
  }
  const cli = join(root, 'dist/cli/main.js');
  if (existsSync(cli)) chmodSync(cli, 0o755);
  return notes.length > 0 ? notes.join(', ') : 'unchanged';
}

/** Compiles one part, then removes what an earlier compilation left there and this one did not write. */
async function compile(config, out) {
  const started = Date.now() - 1000;
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  await mustRun(process.execPath, [tsc, '-p', config]);
  const isOwn = (path) =>
    !parts.some(
      (part) => part.out !== out && path.startsWith(`${part.out}/`) && part.out.startsWith(out),
    );
  for (const path of listFiles(out, isOwn)) {
    if (statSync(join(root, path)).mtimeMs < started) rmSync(join(root, path));
  }
}

if (process.argv[1] === import.meta.filename) {
  await main(() => step('build TypeScript', buildTypeScript));
}
