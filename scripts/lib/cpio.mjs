// Writes uncompressed "newc" cpio archives: the initramfs format of Linux
// (Documentation/driver-api/early-userspace/buffer-format.rst). Owner root, time 0: reproducible.
const directory = 0o040000;
const regular = 0o100000;
const symlink = 0o120000;
const characterDevice = 0o020000;

/** Entries: { path, mode?, content? | linkTo? | device?: [major, minor] }; none of these: a folder. */
export function cpio(entries) {
  const parts = entries.map((entry, index) => record(entry, index + 1));
  parts.push(record({ path: 'TRAILER!!!', content: '' }, 0));
  const archive = Buffer.concat(parts);
  return Buffer.concat([archive, Buffer.alloc(-archive.length & 511)]);
}

function record(entry, inode) {
  const { type, data, permissions } = describe(entry);
  const [major, minor] = entry.device ?? [0, 0];
  const mode = inode === 0 ? 0 : type | (entry.mode ?? permissions);
  const name = Buffer.from(`${entry.path}\0`);
  const fields = [inode, mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
  const header = `070701${fields.map((n) => n.toString(16).padStart(8, '0')).join('')}`;
  return Buffer.concat([pad(Buffer.concat([Buffer.from(header), name])), pad(data)]);
}

function describe(entry) {
  if (entry.content !== undefined) {
    return { type: regular, data: Buffer.from(entry.content), permissions: 0o644 };
  }
  if (entry.linkTo) return { type: symlink, data: Buffer.from(entry.linkTo), permissions: 0o777 };
  if (entry.device) return { type: characterDevice, data: Buffer.alloc(0), permissions: 0o600 };
  return { type: directory, data: Buffer.alloc(0), permissions: 0o755 };
}

const pad = (data) => Buffer.concat([data, Buffer.alloc(-data.length & 3)]);
