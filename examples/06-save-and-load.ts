// Keep a snapshot on disk and load it again, here or in another process of this host.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Snapshot } from 'vmfork';

const directory = await mkdtemp(join(tmpdir(), 'vmfork-example-'));
{
  await using snapshot = await Snapshot.cached();
  await snapshot.save(join(directory, 'snapshot'));
}
{
  await using loaded = await Snapshot.load(join(directory, 'snapshot'));
  await using clone = await loaded.fork();
  const { stdout } = await clone.exec(['echo', 'alive again']);
  console.log(`${stdout.trim()}, taken ${loaded.metadata.createdAt.slice(0, 10)}`);
}
await rm(directory, { recursive: true });
