// Move files in and out of a clone.
import { Snapshot } from 'vmfork';

await using snapshot = await Snapshot.cached();
await using clone = await snapshot.fork();

await clone.writeFile(
  '/tmp/job/run.sh',
  '#!/bin/sh\necho "$(hostname) did it" > /tmp/job/result\n',
  {
    makeParents: true,
    mode: 0o755,
  },
);
await clone.exec(['/tmp/job/run.sh']);
console.log(String(await clone.readFile('/tmp/job/result')).trim());
