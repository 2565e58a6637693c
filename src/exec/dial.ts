// Connections from the host to servers inside a guest.

import { type ByteString, textOf } from '../byte-string.js';
import type { ConnectTcpOptions } from '../options.js';
import { throwIfAborted, type WaitOptions, withLimits } from '../waiting.js';
import { FrameType } from './frames.js';
import type { Session } from './session.js';
import { encodeTlvs, Tag, type Tlv } from './tlv.js';
import { Tunnel } from './tunnel.js';

/** See `vm.connectTcp()`. */
export function dialTcp(
  session: Session,
  port: number,
  { host, ...limits }: ConnectTcpOptions,
): Promise<Tunnel> {
  const items: Tlv[] = [[Tag.PORT, port]];
  if (host !== undefined) items.push([Tag.HOST, host]);
  return dial(session, 'connectTcp', `TCP port ${port}`, items, limits);
}

/** See `vm.connectUnix()`. */
export function dialUnix(session: Session, path: ByteString, limits: WaitOptions): Promise<Tunnel> {
  return dial(session, 'connectUnix', textOf(path), [[Tag.PATH, path]], limits);
}

async function dial(
  session: Session,
  operation: string,
  name: string,
  items: Tlv[],
  limits: WaitOptions,
): Promise<Tunnel> {
  throwIfAborted(operation, limits.signal);
  const target = { name, refused: 'VMF_CONNECTION_REFUSED' } as const;
  const tunnel = new Tunnel(target, (handler) =>
    session.openStream({ type: FrameType.DIAL }, encodeTlvs(items), handler),
  );
  return withLimits(operation, limits, tunnel.opened, () => tunnel.destroy());
}
