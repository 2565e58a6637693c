// PAX extended headers: `length key=value\n` records, global and for one entry.
// POSIX.1-2017 pax, "pax Extended Header".

import { decimal } from './tar-numbers.js';

const SPACE = 0x20;
const EQUALS = 0x3d;
const NEWLINE = 0x0a;
const MAX_LENGTH_DIGITS = 16;

/** The records of one extended header, in order; a key may come twice. Undefined: it is malformed. */
export function parsePaxRecords(header: Buffer): [key: string, value: Buffer][] | undefined {
  const records: [string, Buffer][] = [];
  let at = 0;
  while (at < header.length) {
    const space = header.indexOf(SPACE, at);
    if (space < 0 || space - at > MAX_LENGTH_DIGITS) return undefined;
    const length = decimal(header.toString('latin1', at, space));
    const end = at + (length ?? 0);
    if (length === undefined || end > header.length || end <= space) return undefined;
    const equals = header.indexOf(EQUALS, space);
    if (equals <= space + 1 || equals >= end - 1 || header[end - 1] !== NEWLINE) return undefined;
    records.push([
      header.toString('latin1', space + 1, equals),
      Buffer.from(header.subarray(equals + 1, end - 1)),
    ]);
    at = end;
  }
  return records;
}

const XATTR_PREFIX = 'SCHILY.xattr.';
const SPARSE_KEYS = ['GNU.sparse.name', 'GNU.sparse.map', 'GNU.sparse.numblocks'];

/** Records of one kind of extended header. */
interface Records {
  values: Map<string, Buffer>;
  xattrs: Map<string, Buffer>;
}

const noRecords = (): Records => ({ values: new Map(), xattrs: new Map() });

/** The records in force for one entry. */
export class PaxRecords {
  readonly #global = noRecords();
  #own: Records | undefined;
  #globalBytes = 0;
  #ownBytes = 0;
  /** Offsets and lengths of GNU's sparse format 0.0, which repeats its keys. */
  sparsePairs: string[] = [];

  /** Takes one extended header, `g` or `x`. Whether it was well formed. */
  add(header: Buffer, global: boolean): boolean {
    const records = parsePaxRecords(header);
    if (!records) return false;
    if (global) this.#globalBytes += header.length;
    else this.#ownBytes += header.length;
    if (!global) this.#own ??= noRecords();
    const { values, xattrs } = this.#own && !global ? this.#own : this.#global;
    for (const [key, value] of records) {
      if (key.startsWith(XATTR_PREFIX)) xattrs.set(key.slice(XATTR_PREFIX.length), value);
      else if (key !== 'GNU.sparse.offset' && key !== 'GNU.sparse.numbytes') values.set(key, value);
      else if (!global) this.sparsePairs.push(value.toString('latin1'));
    }
    return true;
  }

  /** The value of a key; undefined when there is none, or an empty one, which means "as in the header block". */
  text(key: string): string | undefined {
    const value = this.#own?.values.get(key) ?? this.#global.values.get(key);
    return value && value.length > 0 ? value.toString('latin1') : undefined;
  }

  /** Extended attributes by name. */
  xattrs(): Map<string, Buffer> | undefined {
    if (this.#global.xattrs.size === 0)
      return this.#own?.xattrs.size ? this.#own.xattrs : undefined;
    return new Map([...this.#global.xattrs, ...(this.#own?.xattrs ?? [])]);
  }

  /** Whether any record is of a sparse file. */
  get describesSparse(): boolean {
    return SPARSE_KEYS.some((key) => this.text(key) !== undefined) || this.sparsePairs.length > 0;
  }

  /** Whether records wait for the entry they belong to. */
  get pending(): boolean {
    return this.#own !== undefined;
  }

  /**
   * What is held, bytes: of all global headers so far, or of all headers before the next entry, whichever is more. Any
   * number of both kinds may follow one another without an entry between, so a limit on each header bounds nothing.
   */
  get heldBytes(): number {
    return Math.max(this.#globalBytes, this.#ownBytes);
  }

  /** Forgets what was for one entry. */
  nextEntry(): void {
    this.#own = undefined;
    this.#ownBytes = 0;
    this.sparsePairs = [];
  }
}
