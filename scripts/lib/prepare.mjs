// The steps before a demo, a benchmark or a test run: tools, packages, addon, TypeScript, guest.
// Imports of anything that npm installs wait until npm has run.
import { join } from 'node:path';
import { installPackages, setUp } from '../setup.mjs';
import { root } from './project.mjs';
import { step } from './run.mjs';

/**
 * From a fresh clone to a runnable project; each step says in one line what it did.
 * The guest is built when the group with its tools is asked for.
 */
export async function prepare(groups) {
  await step('system packages', () => setUp(groups));
  await step('npm packages', installPackages);
  const { buildNative } = await import('../build-native.mjs');
  const { buildTypeScript } = await import('../build-ts.mjs');
  await step('build addon', buildNative);
  await step('build TypeScript', buildTypeScript);
  if (groups.includes('guest')) await step('build guest', buildGuestArtefacts);
}

async function buildGuestArtefacts() {
  const { buildGuest } = await import(join(root, 'guest/build.mjs'));
  const { cached } = await buildGuest({ onProgress: (line) => console.error(`  ${line}`) });
  return cached ? 'cached' : 'built';
}
