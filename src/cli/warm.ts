// After a run from a cold image: a program of its own that warms it for the next ones, at the lowest priority and without
// a terminal, so that nobody waits for it.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { MachineShape } from '../container/warmed.js';
import { wantsWarming } from '../container/warming.js';
import { debug } from '../diagnostics.js';
import type { StoredImage } from '../oci/image.js';

/** Starts it unless the image is warm, or is being warmed. Never fails: a run that went well ends well. */
export async function warmLater(image: StoredImage, shape: MachineShape): Promise<void> {
  try {
    if (!(await wantsWarming(image, shape))) return;
    const program = fileURLToPath(new URL('./warmer.js', import.meta.url));
    const argv = [program, JSON.stringify({ digest: image.digest, ...shape })];
    // A session of its own: Ctrl-C on our terminal is not meant for it. And no folder that somebody may want to unmount.
    const child = spawn(process.execPath, argv, { detached: true, stdio: 'ignore', cwd: '/' });
    child.on('error', (error) => debug('the image is not warmed: %s', error.message));
    child.unref();
  } catch (error) {
    debug('the image is not warmed: %s', error);
  }
}
