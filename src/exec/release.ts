// Giving a process at a fork point its payload: in a clone as it wakes, or in a machine that runs.

import type { ForkPayload } from '../options.js';
import { throwIfAborted, type WaitOptions, withLimits } from '../waiting.js';
import { encodePayload, ForkPoints } from './fork-point.js';
import { encodeFrame, type FrameHeader, FrameType } from './frames.js';
import { FIRST_STREAM, type Session } from './session.js';
import { encodeTlvs, Tag } from './tlv.js';
import { Tunnel, type TunnelTarget } from './tunnel.js';

const RELEASE: FrameHeader = { type: FrameType.RELEASE };

function encodeRelease(name: string, payload: ForkPayload): Buffer {
  return encodeTlvs([
    [Tag.PAYLOAD, encodePayload(payload)],
    [Tag.FORK_POINT, name],
  ]);
}

function targetOf(name: string): TunnelTarget {
  return { name: `fork point ${name}`, refused: 'VMF_FORK_POINT' };
}

/** Gives a waiting process its payload; resolves with the stream to it. */
export async function releaseForkPoint(
  session: Session,
  payload: ForkPayload,
  limits: WaitOptions,
): Promise<Tunnel> {
  throwIfAborted('releaseForkPoint', limits.signal);
  const name = session.forkPoints.choose(payload.name);
  const bytes = encodeRelease(name, payload);
  const tunnel = new Tunnel(targetOf(name), (handler) =>
    session.openStream(RELEASE, bytes, handler),
  );
  tunnel.opened.then(
    () => session.forkPoints.remove(name),
    () => {}, // The caller is told below.
  );
  return withLimits('releaseForkPoint', limits, tunnel.opened, () => tunnel.destroy());
}

/** A payload that a clone is given together with its identity. */
export interface FirstRelease {
  readonly name: string;
  /** Lies behind the `RESUME`. */
  readonly bytes: Buffer;
}

/** Prepares the payload of a clone in which these processes will wait. */
export function prepareRelease(waiting: readonly string[], payload: ForkPayload): FirstRelease {
  const name = new ForkPoints(waiting).choose(payload.name);
  const header = { ...RELEASE, stream: FIRST_STREAM };
  return { name, bytes: encodeFrame(header, encodeRelease(name, payload)) };
}

/** The stream to the process that a clone released when it woke; await its `opened`. */
export function expectRelease(session: Session, { name }: FirstRelease): Tunnel {
  const tunnel = new Tunnel(targetOf(name), (handler) => session.expectStream(handler));
  tunnel.opened.then(
    () => session.forkPoints.remove(name),
    () => {}, // Whoever waits for the tunnel is told.
  );
  return tunnel;
}
