// The guest's kernel, initramfs and userland for the nested host: at the same places in its cache as
// in ours, so that the library inside finds them by its own rules.
import { existsSync } from 'node:fs';
import { join, relative } from 'node:path';
import { cacheDir, root } from '../../scripts/lib/project.mjs';

/** { env, guestFiles: [source, target][] }; builds what the cache does not have. */
export async function guestArtefacts() {
  const script = join(root, 'guest/build.mjs');
  if (!existsSync(script)) return { env: {}, guestFiles: [] };
  const { buildGuest } = await import(script);
  const guest = await buildGuest({ onProgress: (line) => console.error(line) });
  const { kernelPath, initrdPath, userlandPath, imagePath, manifestPath } = guest;
  const paths = [kernelPath, initrdPath, userlandPath, imagePath, manifestPath];
  return {
    env: {},
    guestFiles: paths.map((path) => [path, join('cache', relative(cacheDir(), path))]),
  };
}
