// Root filesystems and warmed snapshots for the tests of containers.
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import {
  type AttachOptions,
  type Clone,
  findImage,
  ImageStore,
  type PreparedRootfs,
  prepareRootfs,
  type Rootfs,
  type Snapshot,
} from 'vmfork';
import { templateSnapshot } from './kvm.js';

/** The built-in image, built once per host. */
export async function busyboxRootfs(): Promise<PreparedRootfs> {
  const store = await ImageStore.open();
  return prepareRootfs(await findImage(store, 'busybox'));
}

/** A snapshot with this image attached, in which a shell has run once, so that all clones share what it needed. */
export async function warmedSnapshot(
  rootfs: Rootfs | string,
  options: AttachOptions = {},
): Promise<Snapshot> {
  await using base = await templateSnapshot();
  await using clone = await base.fork();
  await clone.attach(rootfs, options);
  await clone.run({ argv: ['sh', '-c', 'true | true'], entrypoint: [], keep: true });
  return await clone.snapshot();
}

/** Reads a stream until one of its lines is `wanted`; what came behind it stays unread. */
export const untilLine = (stream: Readable, wanted: string): Promise<void> =>
  readUntil(stream, wanted, (text) => text.split('\n').includes(wanted));

/** Reads a stream until it has said `wanted`, within whatever line. */
export const untilText = (stream: Readable, wanted: string): Promise<void> =>
  readUntil(stream, wanted, (text) => text.includes(wanted));

async function readUntil(
  stream: Readable,
  wanted: string,
  isThere: (text: string) => boolean,
): Promise<void> {
  let text = '';
  while (!isThere(text)) {
    const chunk: Buffer | null = stream.read();
    if (chunk) text += chunk.toString();
    else if (stream.readableEnded) throw new Error(`no ${wanted} in ${text}`);
    else await new Promise((resolve) => stream.once('readable', resolve));
  }
}

/** Runs a line of shell as the main process of a clone that stays; its output. */
export async function shellOf(clone: Clone, line: string): Promise<string> {
  const { stdout, stderr, exitCode } = await clone.run({ argv: ['sh', '-c', line], keep: true });
  if (exitCode !== 0) throw new Error(`exit code ${exitCode}: ${stderr}`);
  return stdout;
}

/** All of a stream of bytes. */
export const bytesOf = (stream: Readable): Promise<Buffer> => buffer(stream);
