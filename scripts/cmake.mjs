// Configures and builds one of the presets of CMakePresets.json (plain, asan, tsan, fuzz) with cmake-js.
// `binary.napi_versions` in package.json tells cmake-js that no Node headers need to be downloaded.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { withLock } from './lib/files.mjs';
import { root } from './lib/project.mjs';
import { mustRun } from './lib/run.mjs';

const cmakeJs = join(root, 'node_modules/cmake-js/bin/cmake-js');

async function configure(preset, target = 'all') {
  // CMake configures again by itself when its inputs change, but not for a target that was not there before.
  const makefile = join(root, 'build', preset, 'Makefile');
  if (existsSync(makefile) && readFileSync(makefile, 'utf8').includes(`\n${target}:`)) return;
  await mustRun(process.execPath, [cmakeJs, 'configure', ...options(preset)]);
}

/** Builds one target, or all of them; resolves with the preset's build folder. */
export const buildPreset = (preset, { jobs = 2, target = 'all' } = {}) =>
  withLock(`cmake-${preset}`, async () => {
    await configure(preset, target);
    const args = ['build', ...options(preset), '-p', String(jobs), '-T', target];
    await mustRun(process.execPath, [cmakeJs, ...args]);
    return join(root, 'build', preset);
  });

function options(preset) {
  const { configurePresets } = JSON.parse(readFileSync(join(root, 'CMakePresets.json'), 'utf8'));
  const { cacheVariables = {} } = configurePresets.find(({ name }) => name === preset);
  return [
    ...['-O', `build/${preset}`, '-G', 'Unix Makefiles', '-B', 'RelWithDebInfo'],
    ...Object.entries(cacheVariables).map(([name, value]) => `--CD${name}=${value}`),
  ];
}
