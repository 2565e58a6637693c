// A streaming reader of tar archives: v7, ustar, GNU and PAX. It is fed the archive in pieces of any size and hands every
// member and its data to a sink. It keeps one header in memory, never a member's data.

import { beyondLimit, invalidLayer, type LayerPlace, type RootfsLimits } from './limits.js';
import { PaxRecords } from './pax.js';
import { readOldSparseBlock, SparsePrefix, sparseMapFits } from './sparse.js';
import { type LongNames, readMember, recordedSize, type TarMember, typeFlag } from './tar-entry.js';
import { BLOCK_BYTES, checksumMatches } from './tar-numbers.js';

/** Who gets the members. */
export interface TarSink {
  /** No more can be taken just now: `feed` returns early. */
  readonly congested: boolean;
  /** A member begins. */
  member(member: TarMember): void;
  /** Stored bytes of the current member, in order. Returns how many were taken, at least one. */
  data(bytes: Buffer): number;
  /** All of the member's data has been given. */
  end(): void;
}

const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);
const NO_NAMES: LongNames = {};

const paddingAfter = (bytes: number) => -bytes & (BLOCK_BYTES - 1);

export class TarReader {
  readonly #sink: TarSink;
  readonly #limits: RootfsLimits;
  readonly #place: LayerPlace;
  readonly #pax = new PaxRecords();
  #long: LongNames = NO_NAMES;
  #member: TarMember | undefined;
  #offset = 0;
  #dataLeft = 0;
  #skip = 0;
  #zeroBlocks = 0;
  // What is being collected: a block, or the content of an extended header; and who gets it.
  #needed = BLOCK_BYTES;
  #collected: Buffer[] = [];
  #collectedBytes = 0;
  #take: (record: Buffer) => void = this.#header;
  readonly #extensions: Readonly<Record<string, (content: Buffer) => void>> = {
    x: (content) => this.#addPax(content, false),
    g: (content) => this.#addPax(content, true),
    L: (content) => {
      this.#long = { ...this.#long, path: untilZero(content) };
    },
    K: (content) => {
      this.#long = { ...this.#long, linkPath: untilZero(content) };
    },
  };

  constructor(layer: number, sink: TarSink, limits: RootfsLimits) {
    this.#sink = sink;
    this.#limits = limits;
    this.#place = { layer, offset: 0, name: '' };
  }

  /** Reads `chunk` from `from` on. Returns where it stopped: the chunk's end, or before it when the sink is congested. */
  feed(chunk: Buffer, from: number): number {
    let at = from;
    while (at < chunk.length && !this.#sink.congested) {
      const used = this.#step(chunk, at);
      at += used;
      this.#offset += used;
    }
    return at;
  }

  /**
   * Passes over what is left of the current member's content, at most so many bytes of it, which the sink does not see. For
   * who can seek. Returns how many bytes that were.
   */
  skip(mostBytes: number): number {
    const data = Math.min(this.#dataLeft, mostBytes);
    if (data > 0) {
      this.#dataLeft -= data;
      if (this.#dataLeft === 0) this.#endMember();
    }
    const padding = Math.min(this.#skip, mostBytes - data);
    this.#skip -= padding;
    this.#offset += data + padding;
    return data + padding;
  }

  /** The archive is over: whatever follows is no part of it. */
  get isOver(): boolean {
    return this.#zeroBlocks === 2;
  }

  /** The stream is over. Throws when the archive is not. */
  finish(): void {
    const complete = this.isOver || (!this.#member && this.#atMemberBorder);
    if (!complete) throw invalidLayer(this.#place, 'the archive ends in the middle of an entry');
  }

  /** Like other readers, an archive without the blocks of zeros at its end is accepted. */
  get #atMemberBorder(): boolean {
    return (
      this.#skip === 0 &&
      this.#collectedBytes === 0 &&
      this.#take === this.#header &&
      this.#long === NO_NAMES &&
      !this.#pax.pending
    );
  }

  #step(chunk: Buffer, at: number): number {
    const available = chunk.length - at;
    if (this.isOver) return available;
    if (this.#dataLeft > 0) return this.#data(chunk, at, available);
    if (this.#skip > 0) {
      const used = Math.min(this.#skip, available);
      this.#skip -= used;
      return used;
    }
    return this.#collect(chunk, at, available);
  }

  #data(chunk: Buffer, at: number, available: number): number {
    const length = Math.min(this.#dataLeft, available);
    const used = this.#sink.data(chunk.subarray(at, at + length));
    this.#dataLeft -= used;
    if (this.#dataLeft === 0) this.#endMember();
    return used;
  }

  #collect(chunk: Buffer, at: number, available: number): number {
    const missing = this.#needed - this.#collectedBytes;
    const used = Math.min(missing, available);
    const piece = chunk.subarray(at, at + used);
    if (this.#collectedBytes === 0 && this.#take === this.#header) {
      this.#place.offset = this.#offset;
      this.#place.name = '';
    }
    if (used < missing) {
      this.#collected.push(Buffer.from(piece)); // The caller may reuse the chunk's memory.
      this.#collectedBytes += used;
      return used;
    }
    const record =
      this.#collected.length === 0 ? piece : Buffer.concat([...this.#collected, piece]);
    this.#collected = [];
    this.#collectedBytes = 0;
    this.#take(record);
    return used;
  }

  #expect(bytes: number, take: (record: Buffer) => void): void {
    this.#needed = bytes;
    this.#take = take;
  }

  #header(block: Buffer): void {
    if (block.equals(ZERO_BLOCK)) {
      this.#zeroBlocks++;
      return;
    }
    if (this.#zeroBlocks > 0) throw invalidLayer(this.#place, 'a lone block of zeros');
    if (!checksumMatches(block)) throw invalidLayer(this.#place, 'wrong header checksum');
    const take = this.#extensions[typeFlag(block)];
    if (take) this.#extended(block, take);
    else this.#beginMember(block);
  }

  #extended(block: Buffer, take: (content: Buffer) => void): void {
    const bytes = recordedSize(block, this.#place);
    if (bytes < 0) throw invalidLayer(this.#place, 'its size is malformed');
    if (bytes > this.#limits.headerBytes) {
      throw beyondLimit(this.#place, 'headerBytes', this.#limits.headerBytes);
    }
    const finish = (content: Buffer) => {
      take(content);
      this.#skip = paddingAfter(bytes);
      this.#expect(BLOCK_BYTES, this.#header);
    };
    if (bytes === 0) finish(ZERO_BLOCK.subarray(0, 0));
    else this.#expect(bytes, finish);
  }

  #addPax(content: Buffer, global: boolean): void {
    if (!this.#pax.add(content, global)) {
      throw invalidLayer(this.#place, 'malformed extended header');
    }
    if (this.#pax.heldBytes > this.#limits.headerBytes) {
      throw beyondLimit(this.#place, 'headerBytes', this.#limits.headerBytes);
    }
  }

  #beginMember(block: Buffer): void {
    const member = readMember(block, this.#pax, this.#long, this.#place, this.#limits);
    this.#pax.nextEntry();
    this.#long = NO_NAMES;
    this.#place.name = member.path;
    this.#member = member;
    this.#dataLeft = 0;
    if (member.mapFollows === 'header') this.#expect(BLOCK_BYTES, this.#oldSparse);
    else if (member.mapFollows === 'data') this.#readSparsePrefix(member);
    else this.#beginData(member);
  }

  #oldSparse(block: Buffer): void {
    const member = this.#member as TarMember;
    const map = member.sparse as number[];
    const more = readOldSparseBlock(block, true, map);
    if (more === undefined) throw invalidLayer(member.place, 'its sparse map is malformed');
    this.#checkMapLimit(member, map.length * 12);
    if (!more) this.#beginData(member);
  }

  #readSparsePrefix(member: TarMember): void {
    const prefix = new SparsePrefix();
    let read = 0;
    this.#expect(BLOCK_BYTES, (block) => {
      read += BLOCK_BYTES;
      this.#checkMapLimit(member, read);
      const complete = prefix.add(block);
      member.storedBytes -= BLOCK_BYTES;
      if (complete === undefined || member.storedBytes < 0) {
        throw invalidLayer(member.place, 'its sparse map is malformed');
      }
      if (!complete) return;
      member.sparse = prefix.map;
      this.#beginData(member);
    });
  }

  #checkMapLimit(member: TarMember, bytes: number): void {
    const { headerBytes } = this.#limits;
    if (bytes > headerBytes) throw beyondLimit(member.place, 'headerBytes', headerBytes);
  }

  #beginData(member: TarMember): void {
    const { sparse, sizeBytes, storedBytes } = member;
    if (sparse && !sparseMapFits(sparse, sizeBytes, storedBytes)) {
      throw invalidLayer(member.place, 'its sparse map does not fit its size');
    }
    this.#expect(BLOCK_BYTES, this.#header);
    this.#sink.member(member);
    this.#dataLeft = storedBytes;
    this.#skip = paddingAfter(storedBytes);
    if (storedBytes === 0) this.#endMember();
  }

  #endMember(): void {
    this.#member = undefined;
    this.#sink.end();
  }
}

function untilZero(content: Buffer): string {
  const end = content.indexOf(0);
  return content.toString('latin1', 0, end < 0 ? content.length : end);
}
