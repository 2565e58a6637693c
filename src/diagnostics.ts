// What an observer can listen to without touching the calls: diagnostics channels, and debug lines with NODE_DEBUG=vmfork.

import { channel } from 'node:diagnostics_channel';
import { debuglog } from 'node:util';

/** Messages: `{ vm, from, to }` with every change of state. */
export const stateChannel = channel('vmfork:state');
/** Messages: `{ vm, parent, timings }` with every finished fork. */
export const forkChannel = channel('vmfork:fork');
/** Messages: `{ vm, level, text }` with every line the guest agent logs. */
export const logChannel = channel('vmfork:log');

/** Debug lines on standard error with `NODE_DEBUG=vmfork`. */
export const debug = debuglog('vmfork');
