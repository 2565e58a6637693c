// Configures and builds one of the presets of CMakePresets.json (plain, asan, tsan, fuzz) with cmake-js.
// `binary.napi_versions` in package.json tells cmake-js that no Node headers need to be downloaded.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { withLock } from './lib/files.mjs';
import { compilerCache, root } from './lib/project.mjs';
import { mustRun } from './lib/run.mjs';

const cmakeJs = join(root, 'node_modules/cmake-js/bin/cmake-js');
const { command, env } = compilerCache;

export async function configure(preset) {
  // CMake configures again by itself when its inputs change.
  if (existsSync(join(root, 'build', preset, 'Makefile'))) return;
  await mustRun(process.execPath, [cmakeJs, 'configure', ...options(preset)], { env });
}

export const buildPreset = (preset, jobs = 2) =>
  withLock(`cmake-${preset}`, async () => {
    await configure(preset);
    const args = ['build', ...options(preset), '-p', String(jobs)];
    await mustRun(process.execPath, [cmakeJs, ...args], { env });
  });

function options(preset) {
  const { configurePresets } = JSON.parse(readFileSync(join(root, 'CMakePresets.json'), 'utf8'));
  const { cacheVariables = {} } = configurePresets.find(({ name }) => name === preset);
  const launchers = command
    ? { CMAKE_CXX_COMPILER_LAUNCHER: command, CMAKE_C_COMPILER_LAUNCHER: command }
    : {};
  const definitions = Object.entries({ ...cacheVariables, ...launchers });
  return [
    ...['-O', `build/${preset}`, '-G', 'Unix Makefiles', '-B', 'RelWithDebInfo'],
    ...definitions.map(([name, value]) => `--CD${name}=${value}`),
  ];
}
