// Freeze a guest once, fork it many times. Each clone is its own machine over shared memory.
import { Snapshot } from 'vmfork';

await using snapshot = await Snapshot.cached(); // boots only the first time
const clones = await snapshot.fork({ count: 5 });
for (const clone of clones) {
  const { privateBytes, sharedBytes } = await clone.memory();
  const id = clone.identity.machineId;
  console.log(
    `${clone.identity.hostname} ${id}: ${sharedBytes >> 10} KiB shared, ${privateBytes >> 10} KiB own`,
  );
}
await Promise.all(clones.map((clone) => clone.destroy()));
