// Makes tar archives for tests, also ones that no honest archiver would write.

const BLOCK = 512;

export interface Member {
  /** Name, byte string. */
  name?: string;
  /** Type flag. Default '0'. */
  type?: string;
  link?: string;
  mode?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  content?: string | Buffer;
  /** Recorded size, when it is to differ from the content's. */
  size?: number | Buffer;
  major?: number;
  minor?: number;
  /** Records of a PAX header before it. */
  pax?: Record<string, string | Buffer>;
  /** Raw bytes over the finished header, e.g. to break the checksum. */
  patch?: (header: Buffer) => void;
  /** The same before the checksum is computed. */
  patchBeforeSum?: (header: Buffer) => void;
}

const padded = (bytes: Buffer): Buffer =>
  Buffer.concat([bytes, Buffer.alloc(-bytes.length & (BLOCK - 1))]);

const bytesOf = (value: string | Buffer): Buffer =>
  typeof value === 'string' ? Buffer.from(value, 'latin1') : value;

function octal(header: Buffer, value: number, at: number, length: number): void {
  if (value >= 0 && value < 8 ** (length - 1)) {
    header.write(value.toString(8).padStart(length - 1, '0'), at, 'latin1');
    return;
  }
  let rest = BigInt.asUintN(length * 8, BigInt(value));
  for (let index = at + length - 1; index >= at; index--) {
    header[index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  header[at] = value < 0 ? 0xff : 0x80;
}

/** One member: PAX header if asked for, header block, content. */
export function member(fields: Member): Buffer {
  const content = bytesOf(fields.content ?? '');
  const header = Buffer.alloc(BLOCK);
  header.write((fields.name ?? 'file').slice(0, 100), 0, 'latin1');
  octal(header, fields.mode ?? 0o644, 100, 8);
  octal(header, fields.uid ?? 0, 108, 8);
  octal(header, fields.gid ?? 0, 116, 8);
  if (Buffer.isBuffer(fields.size)) fields.size.copy(header, 124);
  else octal(header, fields.size ?? content.length, 124, 12);
  octal(header, fields.mtime ?? 1_600_000_000, 136, 12);
  header.write(fields.type ?? '0', 156, 'latin1');
  header.write((fields.link ?? '').slice(0, 100), 157, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  octal(header, fields.major ?? 0, 329, 8);
  octal(header, fields.minor ?? 0, 337, 8);
  fields.patchBeforeSum?.(header);
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  fields.patch?.(header);
  const before = fields.pax ? paxMember('x', fields.pax) : Buffer.alloc(0);
  return Buffer.concat([before, header, padded(content)]);
}

/** An extended header, `x` for the next member or `g` for all. */
export function paxMember(type: 'x' | 'g', records: Record<string, string | Buffer>): Buffer {
  const content = Buffer.concat(Object.entries(records).map(([key, value]) => record(key, value)));
  return member({ name: 'pax', type, content });
}

export function record(key: string, value: string | Buffer): Buffer {
  const body = Buffer.concat([
    Buffer.from(` ${key}=`, 'latin1'),
    bytesOf(value),
    Buffer.from('\n'),
  ]);
  let length = body.length;
  while (String(length).length + body.length !== length) {
    length = String(length).length + body.length;
  }
  return Buffer.concat([Buffer.from(String(length)), body]);
}

export const END = Buffer.alloc(2 * BLOCK);

/** A whole archive. */
export const archive = (...members: (Member | Buffer)[]): Buffer =>
  Buffer.concat([...members.map((each) => (Buffer.isBuffer(each) ? each : member(each))), END]);

export const directory = (name: string, fields: Member = {}): Member => ({
  name,
  type: '5',
  mode: 0o755,
  ...fields,
});

export const symlink = (name: string, link: string): Member => ({
  name,
  type: '2',
  link,
  mode: 0o777,
});

export const hardlink = (name: string, link: string): Member => ({ name, type: '1', link });
