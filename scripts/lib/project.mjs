// Where things are: the checkout's root, the cache outside the tree, and what kind of tree this is.
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** Built artefacts that outlive a checkout: guest kernels, nested-host images, templates. */
export function cacheDir() {
  if (process.env.VMFORK_CACHE_DIR) return process.env.VMFORK_CACHE_DIR;
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vmfork');
}

/** A source checkout has src/; the published package has only what was built from it. */
export const isCheckout = existsSync(join(root, 'src'));

export const hasKvm = () => existsSync('/dev/kvm');

const ccache = ['/usr/bin/ccache', '/usr/local/bin/ccache'].find((path) => existsSync(path));

/** How compilers are started: through ccache where there is one, so that a second clone compiles nothing. */
export const compilerCache = {
  command: ccache,
  env: ccache
    ? { CCACHE_BASEDIR: root, CCACHE_NOHASHDIR: '1', CCACHE_SLOPPINESS: 'time_macros' }
    : {},
};
