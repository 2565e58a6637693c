// Fork a fork: prepare a clone once, then branch from where it stands. It goes on itself, too.
import { Snapshot } from 'vmfork';

await using snapshot = await Snapshot.cached();
await using prepared = await snapshot.fork({ hostname: 'prepared' });
await prepared.writeFile('/tmp/state', 'prepared once');

await using branchPoint = await prepared.snapshot();
const branches = await branchPoint.fork({ count: 3, hostname: 'branch' });
for (const branch of branches) {
  await branch.exec(['sh', '-c', 'echo ", then $(hostname)" >> /tmp/state']);
  console.log(String(await branch.readFile('/tmp/state')).replaceAll('\n', ''));
}
console.log(String(await prepared.readFile('/tmp/state')));
await Promise.all(branches.map((branch) => branch.destroy()));
