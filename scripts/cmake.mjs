// Configures and builds one of the presets of CMakePresets.json: plain, asan, tsan or fuzz.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { withLock } from './lib/files.mjs';
import { compilerCache, root } from './lib/project.mjs';
import { mustRun } from './lib/run.mjs';

const { command, env } = compilerCache;

export async function configure(preset) {
  // CMake configures again by itself when its inputs change.
  if (existsSync(join(root, 'build', preset, 'Makefile'))) return;
  const launchers = command
    ? [`-DCMAKE_CXX_COMPILER_LAUNCHER=${command}`, `-DCMAKE_C_COMPILER_LAUNCHER=${command}`]
    : [];
  await mustRun('cmake', ['--preset', preset, '-G', 'Unix Makefiles', ...launchers], { env });
}

export const buildPreset = (preset, jobs = 2) =>
  withLock(`cmake-${preset}`, async () => {
    await configure(preset);
    await mustRun('cmake', ['--build', '--preset', preset, '-j', String(jobs)], { env });
  });
