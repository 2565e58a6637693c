// `npm run lint`: formatting, types, static analysis and the project's own rules. One line per check.
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { checkDocs } from './check-docs.mjs';
import { checkLayers } from './check-layers.mjs';
import { checkSize } from './check-size.mjs';
import { hashInputs, listFiles, writeFileAtomic } from './lib/files.mjs';
import { Outcome } from './lib/outcome.mjs';
import { cacheDir, root } from './lib/project.mjs';
import { Failure, main, mustRun, run, runCheck, step } from './lib/run.mjs';

export const biome = join(root, 'node_modules/.bin/biome');

/** Our C and C++: native/ and the guest's programs. */
export const cFiles = () => {
  const isC = (path) => /\.(cc|h|c)$/.test(path) && !path.includes('/build/');
  return [...listFiles('native', isC), ...listFiles('guest', isC)];
};

const tsc = join(root, 'node_modules/typescript/bin/tsc');

const checks = {
  biome: () => mustRun(biome, ['ci', '--error-on-warnings', '.']),
  types: () => mustRun(process.execPath, [tsc, '-p', 'tsconfig.json']),
  'clang-format': () => mustRun('clang-format-19', ['--dry-run', '-Werror', ...cFiles()]),
  layers: () => runCheck(checkLayers),
  sizes: () => runCheck(checkSize),
  docs: () => runCheck(checkDocs),
  'clang-tidy': clangTidy,
};

// clang-tidy from 22 on passes over what the headers of the system define, and its analyzer is three times faster.
const tidy = 'clang-tidy-22';
const tidyFlags = '-xc++ -std=c++23 -Inative -pthread -O1 -Wall -Wextra -Wpedantic -Werror'.split(
  ' ',
);

/** Analyses the core's files that changed since they were last found clean, by any checkout. */
async function clangTidy() {
  const core = JSON.parse(readFileSync(join(root, 'native/sources.json'), 'utf8')).core;
  const pending = core
    .map((path) => `native/${path}`)
    .map((path) => ({
      path,
      key: hashInputs([...withHeaders(path), '.clang-tidy'], [tidy, ...tidyFlags]),
    }))
    .filter(({ key }) => !existsSync(stampOf(key)));
  if (pending.length === 0) return;
  const complaints = [];
  const analyse = async () => {
    for (let file = pending.pop(); file; file = pending.pop()) {
      const { code, output } = await run(tidy, ['--quiet', file.path, '--', ...tidyFlags]);
      if (code === 0) writeFileAtomic(stampOf(file.key), '');
      else complaints.push(output);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, analyse));
  await runCheck(() => complaints);
}

/** A file of native/ and all headers of ours that it includes, directly or not. */
function withHeaders(path, found = new Set()) {
  if (found.has(path) || !existsSync(join(root, path))) return found;
  found.add(path);
  for (const [, name] of readFileSync(join(root, path), 'utf8').matchAll(/^#include "(.+)"/gm)) {
    withHeaders(`native/${name}`, found);
  }
  return found;
}

const stampOf = (key) => join(cacheDir(), 'tidy', key.slice(0, 32));

/** Runs every check, also after a failure; each counts as one test. */
export async function lint() {
  const outcome = new Outcome();
  for (const [name, check] of Object.entries(checks)) {
    await step(`lint: ${name}`, () => check().then(() => '')).then(
      () => outcome.passed++,
      (error) => {
        if (!(error instanceof Failure)) throw error;
        outcome.fail(`lint: ${name}`, error.output);
      },
    );
  }
  return outcome;
}

if (process.argv[1] === import.meta.filename) {
  await main(async () => {
    const { failed } = await lint();
    if (failed > 0) throw new Failure(`${failed} checks failed`);
  });
}
