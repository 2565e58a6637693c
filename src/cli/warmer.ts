// The program that `vmfork run` leaves behind after a run from a cold image (warm.ts): warms the image and ends. Its
// argument is JSON: the image's digest and the size of the machine.

import { constants, setPriority } from 'node:os';
import * as v from 'valibot';
import { warmInTurn } from '../container/warming.js';
import { debug } from '../diagnostics.js';
import { Engine } from '../kvm/engine.js';
import { ImageStore } from '../oci/store.js';

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(1));
const order = v.object({
  digest: v.string(),
  memoryMiB: v.optional(count),
  vcpus: v.optional(count),
});

try {
  // Threads that are made later have the priority of this one (setpriority(2), "C library/kernel differences").
  setPriority(constants.priority.PRIORITY_LOW);
  const { digest, ...shape } = v.parse(order, JSON.parse(process.argv[2] ?? ''));
  const image = await (await ImageStore.open()).inspect(digest);
  await using engine = new Engine();
  await warmInTurn(engine, image, shape);
} catch (error) {
  // Nobody reads it: the next run is a cold one again.
  debug('the image is not warmed: %s', error);
  process.exitCode = 1;
}
