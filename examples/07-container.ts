// Run containers: an image is attached to a template once, and each container runs in a fork of it.
import { findImage, ImageStore, prepareRootfs, Snapshot } from 'vmfork';

const store = await ImageStore.open();
const rootfs = await prepareRootfs(await findImage(store, 'busybox'));

await using base = await Snapshot.cached();
await using template = await base.fork();
await template.attach(rootfs);
await using warmed = await template.snapshot();

const clones = await warmed.fork({ count: 3, hostname: 'container' });
const line = 'echo "$GREETING from $(hostname), process $$"';
const env = { GREETING: 'hello' };
// Each machine ends with its container.
const results = await Promise.all(
  clones.map((clone) => clone.run({ argv: ['sh', '-c', line], env })),
);
for (const { exitCode, stdout } of results) console.log(`${exitCode}: ${stdout.trim()}`);
