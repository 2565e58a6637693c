// Random archives: members that no honest archiver writes, and damage to whole ones.

import fc from 'fast-check';
import { noise } from '../helpers/oci/images.js';
import { archive, END, type Member, member, paxMember } from '../unit/oci/rootfs/tar-maker.js';

/** Mostly the first, else the other: most inputs must get past the first checks to reach what lies behind. */
const mostly = <T, U>(weight: number, usual: fc.Arbitrary<T>, odd: fc.Arbitrary<U>) =>
  fc.oneof({ weight, arbitrary: usual }, { weight: 1, arbitrary: odd });
const nothing = fc.constant(undefined);

const oddPart = fc.constantFrom(
  ...['..', '.', '', '.wh.a', '.wh.b', '.wh..wh..opq', '.wh..'],
  ...['n'.repeat(256), '\xff\xfe', 'z\0z', 'etc'],
);
const part = mostly(12, fc.constantFrom('a', 'b', 'c'), oddPart);
const path = fc
  .tuple(fc.constantFrom('', '', '', '/', './'), fc.array(part, { minLength: 1, maxLength: 4 }))
  .map(([start, parts]) => start + parts.join('/'));
const oddNumber = fc.constantFrom(
  ...['-1', '1e9', '1.5', '', 'x', '4294967296', '9007199254740993', '9'.repeat(30)],
);
const number = mostly(10, fc.nat(3000).map(String), oddNumber);
const map = fc.array(fc.nat(4000), { maxLength: 6 });
const record = fc.oneof(
  fc.tuple(fc.constantFrom('path', 'linkpath', 'GNU.sparse.name'), path),
  fc.tuple(fc.constantFrom('size', 'uid', 'gid', 'mtime', 'GNU.sparse.offset'), number),
  fc.tuple(
    fc.constantFrom('GNU.sparse.realsize', 'GNU.sparse.size', 'GNU.sparse.numbytes'),
    number,
  ),
  fc.tuple(fc.constantFrom('GNU.sparse.major', 'GNU.sparse.minor'), fc.constantFrom('0', '1')),
  fc.tuple(fc.constant('GNU.sparse.map'), map.map(String)),
  fc
    .tuple(
      fc.constantFrom(
        'user.a',
        'trusted.overlay.opaque',
        'security.capability',
        'x\0y',
        '',
        'u'.repeat(300),
      ),
      fc.string({ unit: 'binary-ascii', maxLength: 20 }),
    )
    .map(([name, value]): [string, string] => [`SCHILY.xattr.${name}`, value]),
);
const records = fc
  .array(record, { minLength: 1, maxLength: 5 })
  .map((all): Record<string, string> => Object.fromEntries(all));
const content = fc.oneof(
  // Cheaper to make than random text, of which nobody here looks at more than the length.
  fc.tuple(fc.nat(255), fc.nat(1500)).map(([byte, bytes]) => Buffer.alloc(bytes, byte)),
  map.map((numbers) => `${[numbers.length >> 1, ...numbers].join('\n')}\n`.padEnd(512, '\0')),
  path.map((text) => `${text}\0`),
);
const sizes = fc.constantFrom(-1, 0, 1, 600, 2 ** 33, 2 ** 60);

const anyMember = fc
  .record({
    name: path,
    type: mostly(30, fc.constantFrom(...'0000112234555567L'), fc.constantFrom(...'SxgKZ\0')),
    link: path,
    content,
    size: mostly(40, nothing, sizes),
    mode: fc.nat(0o17777),
    major: mostly(20, fc.constantFrom(0, 1), fc.constant(5000)),
    pax: mostly(3, nothing, records),
  })
  .map(({ size, pax, ...rest }): Buffer => {
    // Only files have content, or nearly no archive would get beyond its first link.
    const isBare = /[1-6]/.test(rest.type) && size === undefined;
    const fields: Member = isBare ? { ...rest, content: '' } : rest;
    return member({ ...fields, ...(size !== undefined && { size }), ...(pax && { pax }) });
  });
const header = fc
  .tuple(fc.constantFrom('x' as const, 'g' as const), records)
  .map((parts) => paxMember(...parts));
const junk = fc.nat().map((seed) => noise(String(seed), 512));

const made = fc
  .array(
    fc.oneof(
      { weight: 40, arbitrary: anyMember },
      { weight: 4, arbitrary: header },
      { weight: 1, arbitrary: fc.constant(END.subarray(512)) },
      { weight: 1, arbitrary: junk },
    ),
    { maxLength: 8 },
  )
  .map((members) => archive(...members));

/** Damage to bytes: some are written over, the checksum of the header around them made right again, the rest cut off. */
const damage = fc.record({
  at: fc.nat(),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 4 }),
  fixSum: mostly(9, fc.constant(true), fc.constant(false)),
  cut: mostly(15, nothing, fc.nat()),
});

/** Bytes with some damage, or none. */
export const damagedBytes = (whole: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> =>
  fc
    .tuple(whole, mostly(2, fc.constant([]), fc.array(damage, { maxLength: 3 })))
    .map(([bytes, damages]) => damages.reduce(inflict, bytes));

interface Damage {
  at: number;
  bytes: Uint8Array;
  fixSum: boolean;
  cut: number | undefined;
}

function inflict(whole: Buffer, { at, bytes, fixSum, cut }: Damage): Buffer {
  if (whole.length === 0) return whole;
  const copy = Buffer.from(whole);
  const start = at % copy.length;
  copy.set(bytes.subarray(0, copy.length - start), start);
  const block = start - (start % 512);
  if (fixSum && block + 512 <= copy.length) {
    copy.fill(0x20, block + 148, block + 156);
    const sum = copy.subarray(block, block + 512).reduce((total, byte) => total + byte, 0);
    copy.write(`${sum.toString(8).padStart(6, '0')}\0 `, block + 148, 'latin1');
  }
  return cut === undefined ? copy : copy.subarray(0, cut % copy.length);
}

/** Archives of any kind. `paths` are names for their members and targets of links. */
export const anyArchive = damagedBytes(made);
export const anyPath = path;
