// Mounting the container's root filesystem in a guest whose disk the host has attached.

import { VmforkError } from '../errors.js';
import { type Frame, FrameType } from '../exec/frames.js';
import { describeFailure, parseFailure } from '../exec/messages.js';
import type { Session } from '../exec/session.js';
import { Deferred, throwIfAborted, type WaitOptions, withLimits } from '../waiting.js';
import { encodeMount, type MountRequest } from './wire.js';

const SIGKILL = 9;
const NO_BYTES = Buffer.alloc(0);

/**
 * Mounts the image on a disk of the guest, waiting in the guest for the disk to appear. Rejects with `VMF_ROOTFS` (stage
 * and errno say what failed), `VMF_ABORTED`, `VMF_TIMEOUT`; after any of them nothing is mounted.
 */
export function mountRootfs(
  session: Session,
  request: MountRequest,
  limits: WaitOptions = {},
): Promise<void> {
  const payload = encodeMount(request);
  return call(session, 'attach', FrameType.MOUNT_ROOTFS, payload, FrameType.ROOTFS_READY, limits);
}

/**
 * Does in a template what its clones need not do: after it, `mountRootfs` and the start of a main process take a
 * fraction of their time in every clone. To be called last before the snapshot, and again after a main process ended.
 * Rejects with `VMF_ROOTFS`.
 */
export function prepareContainer(session: Session, limits: WaitOptions = {}): Promise<void> {
  const { PREPARE, PREPARED } = FrameType;
  return call(session, 'prepare', PREPARE, NO_BYTES, PREPARED, limits);
}

/** Forgets the root filesystem and all that was written. Rejects with `VMF_ROOTFS` while a main process runs. */
export function unmountRootfs(session: Session, limits: WaitOptions = {}): Promise<void> {
  const { UNMOUNT_ROOTFS, ROOTFS_GONE } = FrameType;
  return call(session, 'detach', UNMOUNT_ROOTFS, NO_BYTES, ROOTFS_GONE, limits);
}

/** One request on a stream of its own, answered by one frame. */
async function call(
  session: Session,
  operation: string,
  type: number,
  payload: Buffer,
  answer: number,
  limits: WaitOptions,
): Promise<void> {
  throwIfAborted(operation, limits.signal);
  const done = new Deferred<void>();
  const onFrame = (frame: Frame): void => {
    if (frame.type !== answer && frame.type !== FrameType.ERROR) {
      throw new VmforkError('VMF_PROTOCOL', `frame of type ${frame.type} answers ${operation}`);
    }
    stream.close();
    if (frame.type === answer) done.resolve();
    else done.reject(rootfsError(frame));
  };
  const onGone = (error: VmforkError): void => {
    stream.close();
    done.reject(error);
  };
  const stream = session.openStream({ type }, payload, { onFrame, onGone });
  // The answer to the signal still comes and closes the stream.
  await withLimits(operation, limits, done.promise, () =>
    stream.send({ type: FrameType.SIGNAL, value: SIGKILL }),
  );
}

function rootfsError(frame: Frame): VmforkError {
  const failure = parseFailure(frame);
  return new VmforkError('VMF_ROOTFS', describeFailure(failure), {
    operation: failure.stage,
    errno: failure.errno,
  });
}
