// Reduces a linked vmlinux to what a loader reads: the ELF header, the PT_LOAD and PT_NOTE segments, and nothing else.
// The linker aligns segments to 2 MiB in the file; here they follow each other, without symbols and trailing zeros.
const headerBytes = 64;
const entryBytes = 56;
const pageBytes = 4096;
const ptLoad = 1;
const ptNote = 4;

/** ELF-64 little endian in, the same image with the same addresses out (elf(5)). */
export function compactElf(file) {
  const segments = readSegments(file).filter(({ type }) => type === ptLoad || type === ptNote);
  const loads = segments.filter(({ type }) => type === ptLoad).map((load) => trim(file, load));
  let end = align(headerBytes + segments.length * entryBytes);
  for (const load of loads) {
    load.newOffset = end;
    end = align(end + load.newSize);
  }
  const notes = segments.filter(({ type }) => type === ptNote).map((note) => inside(note, loads));
  return assemble(file, [...loads, ...notes], end);
}

export function readSegments(file) {
  if (file.readUInt32BE(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1) {
    throw new Error('not a 64-bit little-endian ELF file');
  }
  const table = Number(file.readBigUInt64LE(32));
  return Array.from({ length: file.readUInt16LE(56) }, (_, index) => {
    const at = table + index * entryBytes;
    return {
      header: file.subarray(at, at + entryBytes),
      type: file.readUInt32LE(at),
      offset: Number(file.readBigUInt64LE(at + 8)),
      size: Number(file.readBigUInt64LE(at + 32)),
    };
  });
}

/** The loader zeroes what memsz has beyond filesz, so zeros at a segment's end need not be stored. */
function trim(file, load) {
  let newSize = load.size;
  while (newSize > 0 && file[load.offset + newSize - 1] === 0) newSize--;
  return { ...load, newSize };
}

function inside(note, loads) {
  const load = loads.find(
    (l) => note.offset >= l.offset && note.offset + note.size <= l.offset + l.size,
  );
  if (!load) throw new Error('a note outside every loaded segment');
  return { ...note, newOffset: load.newOffset + note.offset - load.offset, newSize: note.size };
}

function assemble(file, segments, end) {
  const out = Buffer.alloc(end);
  file.copy(out, 0, 0, headerBytes);
  out.writeBigUInt64LE(BigInt(headerBytes), 32);
  out.writeBigUInt64LE(0n, 40);
  out.writeUInt16LE(segments.length, 56);
  out.fill(0, 58, 64);
  segments.forEach((segment, index) => {
    const at = headerBytes + index * entryBytes;
    segment.header.copy(out, at);
    out.writeBigUInt64LE(BigInt(segment.newOffset), at + 8);
    out.writeBigUInt64LE(BigInt(segment.newSize), at + 32);
    if (segment.type === ptLoad) {
      out.writeBigUInt64LE(BigInt(pageBytes), at + 48);
      file.copy(out, segment.newOffset, segment.offset, segment.offset + segment.newSize);
    }
  });
  return out;
}

const align = (offset) => Math.ceil(offset / pageBytes) * pageBytes;
