// Builds the addon with node-gyp. Skips the work when a hash of all inputs is unchanged.
// --install: run by npm for an installed package; in a checkout `npm run build` does it instead.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { hashInputs, listFiles, unlessCurrent, withLock } from './lib/files.mjs';
import { compilerCache, isCheckout, root } from './lib/project.mjs';
import { main, mustRun, step } from './lib/run.mjs';

const addon = join(root, 'build/Release/vmfork.node');

export const buildNative = () => withLock('build-native', buildAddon);

async function buildAddon() {
  const isInput = (path) => !/^native\/(tests|fuzz)\//.test(path);
  // package.json has the version that the addon reports.
  const inputs = [...listFiles('native', isInput), 'binding.gyp', 'package.json'];
  const key = hashInputs(inputs, [process.version, process.arch]);
  const ran = await unlessCurrent(join(root, 'build/native.hash'), key, [addon], async () => {
    const [command, ...args] = nodeGyp();
    const verb = existsSync(join(root, 'build/Makefile')) ? ['configure', 'build'] : ['rebuild'];
    await mustRun(command, [...args, ...verb, '-j', '2', ...nodeDir()], { env: compilers() });
  });
  return ran ? 'build/Release/vmfork.node' : 'unchanged';
}

/** The headers that came with this Node, when they did: without them node-gyp would download a copy. */
function nodeDir() {
  const prefix = dirname(dirname(process.execPath));
  return existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : [];
}

function compilers() {
  if (!compilerCache.command) return {};
  const { CC = 'gcc', CXX = 'g++' } = process.env;
  const through = (compiler) => `${compilerCache.command} ${compiler}`;
  return { ...compilerCache.env, CC: through(CC), CXX: through(CXX) };
}

/** Our own node-gyp in a checkout; in an installed package, the one inside npm. */
function nodeGyp() {
  try {
    const require = createRequire(import.meta.url);
    return [process.execPath, require.resolve('node-gyp/bin/node-gyp.js')];
  } catch {
    const bundled = process.env.npm_config_node_gyp;
    return bundled ? [process.execPath, bundled] : ['node-gyp'];
  }
}

if (process.argv[1] === import.meta.filename) {
  const skip = process.argv.includes('--install') && isCheckout;
  if (!skip) await main(() => step('build addon', buildNative));
}
