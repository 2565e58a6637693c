// Run commands: collected, streamed, and cut off.
import { Snapshot, VmforkError } from 'vmfork';

await using snapshot = await Snapshot.cached();
await using clone = await snapshot.fork();

const { exitCode, stdout } = await clone.exec(['wc', '-c'], { stdin: 'twelve bytes' });
console.log(`wc ended with ${exitCode} and said ${stdout.trim()}`);

const command = clone.spawn(['sh', '-c', 'for i in 1 2 3; do echo line $i; done'], {
  stdin: 'ignore',
});
for await (const chunk of command.stdout) console.log(`streamed: ${String(chunk).trim()}`);
await command.exited;

try {
  await clone.exec(['sleep', '60'], { timeoutMs: 200 });
} catch (error) {
  if (!VmforkError.is(error)) throw error;
  console.log(`${error.code}: ${error.message}`);
}
