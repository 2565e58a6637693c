// Extended attributes: which of a layer's are kept, and how EROFS stores them behind an inode.
// Linux: fs/erofs/erofs_fs.h, struct erofs_xattr_ibody_header and erofs_xattr_entry.

import { invalidLayer, MAX_NAME_BYTES } from './limits.js';
import type { TarMember } from './tar-entry.js';

/** One attribute as EROFS stores it: an index for the beginning of the name, and the rest. */
export interface Xattr {
  index: number;
  name: string;
  value: Buffer;
}

// The whole name of an access control list is in its index, so its stored name is empty.
const PREFIXES: readonly (readonly [prefix: string, index: number])[] = [
  ['user.', 1],
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
  ['trusted.', 4],
  ['security.', 6],
];
const ACL_INDEXES: readonly number[] = [2, 3];

/** overlayfs would take these for its own when the image lies under it, e.g. as a redirection to another directory. */
const OVERLAY_NAMES = /^(trusted|user)\.overlay\./;

const MAX_VALUE_BYTES = 0xffff;
const NONE: readonly Xattr[] = [];

/** The attributes that the image keeps, in a fixed order. Namespaces that EROFS does not know are left out. */
export function keptXattrs({ xattrs, place }: TarMember): readonly Xattr[] {
  if (!xattrs) return NONE;
  const kept: Xattr[] = [];
  for (const [name, value] of xattrs) {
    const match = PREFIXES.find(([prefix]) => name.startsWith(prefix));
    if (!match || OVERLAY_NAMES.test(name)) continue;
    const [prefix, index] = match;
    const rest = name.slice(prefix.length);
    if ((rest === '') !== ACL_INDEXES.includes(index)) continue;
    if (name.length > MAX_NAME_BYTES || name.includes('\0')) {
      throw invalidLayer(place, 'the name of an extended attribute is not valid');
    }
    if (value.length > MAX_VALUE_BYTES) {
      throw invalidLayer(place, 'an extended attribute of more than 65,535 bytes');
    }
    kept.push({ index, name: rest, value });
  }
  return kept.sort((a, b) => a.index - b.index || (a.name < b.name ? -1 : 1));
}

const HEADER_BYTES = 12;
const ENTRY_BYTES = 4;
const ALIGNMENT = 4;

const align = (bytes: number) => (bytes + ALIGNMENT - 1) & -ALIGNMENT;

const storedBytes = ({ name, value }: Xattr) => align(ENTRY_BYTES + name.length + value.length);

/** Bytes that these attributes take behind their inode. */
export function xattrBytes(xattrs: readonly Xattr[]): number {
  if (xattrs.length === 0) return 0;
  return xattrs.reduce((sum, xattr) => sum + storedBytes(xattr), HEADER_BYTES);
}

/** The inode's `i_xattr_icount` for attributes of so many bytes: the header counts as one unit, then four bytes a unit. */
export const xattrUnits = (bytes: number): number =>
  bytes === 0 ? 0 : (bytes - HEADER_BYTES) / ALIGNMENT + 1;

/** Writes attributes behind their inode. `target` is zero there. */
export function writeXattrs(target: Buffer, offset: number, xattrs: readonly Xattr[]): void {
  let at = offset + HEADER_BYTES;
  for (const xattr of xattrs) {
    const { index, name, value } = xattr;
    target.writeUInt8(name.length, at);
    target.writeUInt8(index, at + 1);
    target.writeUInt16LE(value.length, at + 2);
    target.write(name, at + ENTRY_BYTES, 'latin1');
    value.copy(target, at + ENTRY_BYTES + name.length);
    at += storedBytes(xattr);
  }
}
